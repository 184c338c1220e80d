"""Edits of the whole model's size: how many layers, how many tokens, how many positions."""

import random

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.draft import Draft, Intent, refusal_draft
from genmad.intents.layers import is_leaf, keeps_type, per_container
from genmad.intents.phrasing import Phrases, say
from genmad.intents.targets import count
from genmad.intents.types import Request
from genmad.intents.values import usual
from genmad.intents.writing import Number, ScriptWriter, edit_blocks
from genmad.ir.graph import Block, Node, producer

MAX_NEW = 16


def one_stack(anatomy: Anatomy) -> tuple[Layer, ...]:
    """The layers where they are one list whose members pass on what they got; () in other models."""
    layers = anatomy.layers
    whole = len({(x.stem, x.side, x.stage) for x in layers}) == 1 and len(layers) > 1
    return layers if whole and all(keeps_type(anatomy, x) for x in layers) else ()


def removed_layers(layers: tuple[Layer, ...], depth: int, keep: str) -> tuple[Layer, ...]:
    """`every_other`: the second, fourth ... layer goes; `first`: those behind the first `depth`."""
    return layers[1::2] if keep == "every_other" else layers[depth:]


def _draft(name: str, depth: int, keep: str, slots: dict[str, Phrases]) -> Request:
    del slots
    values = (("depth", depth), ("keep", keep)) if keep else (("depth", depth),)
    return Request(intent=name, values=values)


def _deep(depth: int) -> Phrases:
    n = count(depth)
    seen = (f"{n} layers", f"{n} blocks", f"{n} transformer layers", f"{n} layers deep", f"{n} layers in total")
    return Phrases(seen, (f"a depth of {n}", f"{n} layers altogether"))


def _propose_reduce(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    layers = one_stack(anatomy)
    if not layers:
        return None
    slots: dict[str, Phrases]
    if rng.random() < 0.45:
        depth, keep = (len(layers) + 1) // 2, "every_other"
        halves = len(layers) % 2 == 0 and rng.random() < 0.5
        slots = {"half" if halves else "other": _HALF if halves else _EVERY_OTHER}
    else:
        depth, keep = rng.randrange(1, len(layers)), "first"
        slots = {"depth": _deep(depth)}
    gone = removed_layers(layers, depth, keep)

    def build(writer: ScriptWriter) -> None:
        per_container(writer, gone, lambda layer: writer.remove(layer.call))

    return Draft(request=_draft("reduce_depth", depth, keep, slots), slots=slots, build=build)


_HALF = say("(halve|cut in half)", unseen=("reduce by half",))
_EVERY_OTHER = say(
    "(keep|use) (only |just |)every other (layer|block)", "(keep|retain) every second (layer|block)",
    "(drop|remove) every second (layer|block)", "keep (only |)alternate layers",
    unseen=("retain one layer in two", "thin the stack out to every other layer"),
)  # fmt: skip
_MODEL = "(it|the model|the network|this model)"


def _same_depth(name: str) -> object:
    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        del rng
        layers = one_stack(anatomy)
        if not layers:
            return None
        return refusal_draft(name, "already_so", {"depth": _deep(len(layers))}, values={"depth": len(layers)})

    return propose


def _no_stack(name: str) -> object:
    """A refusal where the layers change their shapes on the way, or there are none."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        if one_stack(anatomy) or not anatomy.layers or len({x.stem for x in anatomy.layers}) < 2:
            return None
        return refusal_draft(name, "not_applicable", {"depth": _deep(rng.choice((2, 4, 8, 12, 24, 32)))})

    return propose


_TO_DEPTH = (
    f"make {_MODEL} {{depth}}",
    f"(reduce|shrink|cut) {_MODEL} to {{depth}}",
    "(reduce|cut|bring) the depth (down |)to {depth}",
    "keep (only |just |)the first {depth}",
    "~only {depth}",
    f"(truncate|shorten) {_MODEL} to {{depth}}",
    "~a shallower model: {depth}",
    f"leave {_MODEL} with {{depth}}",
    "(use|have) only {depth}",
    f"~I want {_MODEL} to have only {{depth}}",
    "~(could|can) you reduce the depth to {depth}?",
    "remove layers (until|so that) {depth} (are left|remain)",
    f"distil {_MODEL} to {{depth}}",
    "throw out layers at the top until there are {depth}",
)
REDUCE_DEPTH = Intent(
    name="reduce_depth",
    reading="remove",
    seen=(
        *_TO_DEPTH,
        "{half} the depth",
        f"{{half}} the depth of {_MODEL}",
        "{half} the number of (layers|blocks)[ of the model]",
        f"make {_MODEL} shallower: {{half}} the depth",
        "~I want to {half} the depth",
        "{other}",
        f"{{other}} of {_MODEL}",
        f"make {_MODEL} shallower: {{other}}",
        f"shrink {_MODEL}: {{other}}",
        "{other} and drop the rest",
        "~DistilBERT style: {other}",
    ),
    unseen=(
        f"prune {_MODEL} down to {{depth}}",
        f"~{_MODEL} should be no deeper than {{depth}}",
        "let only {depth} survive, from the bottom",
        f"{{half}} the layer count of {_MODEL}",
        "{half} the stack",
        f"compress {_MODEL} by depth: {{other}}",
        f"lighten {_MODEL}, {{other}}",
    ),
    propose=_propose_reduce,
    refuse=(_same_depth("reduce_depth"), _no_stack("reduce_depth")),  # type: ignore[arg-type]
    weight=1.0,
    combines=False,
)


def _propose_grow(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    layers = one_stack(anatomy)
    if not layers or not all(is_leaf(anatomy, x) for x in layers):
        return None
    doubles = rng.random() < 0.35 and len(layers) <= MAX_NEW
    more = len(layers) if doubles else rng.choice((1, 1, 2, 2, 3, 4, 6, 8))
    slots = {"double": _DOUBLE} if doubles else {"depth": _deep(len(layers) + more)}
    last = layers[-1]

    def build(writer: ScriptWriter) -> None:
        writer.at(*([last.container] if last.container else []))
        node = writer.node(last.call)
        value = node.outputs[0]
        for _ in range(more):
            value = writer.call(last.call, (value, *node.inputs[1:]), "new")
        writer.swap_uses(node.outputs[0], value)

    return Draft(request=_draft("grow_depth", len(layers) + more, "", slots), slots=slots, build=build)


_DOUBLE = say("double", unseen=("multiply by two",))
GROW_DEPTH = Intent(
    name="grow_depth",
    reading="insert",
    seen=(
        f"make {_MODEL} {{depth}}",
        f"(grow|extend|deepen) {_MODEL} to {{depth}}",
        "(increase|raise) the depth to {depth}",
        f"add layers to {_MODEL} until there are {{depth}}",
        f"make {_MODEL} deeper: {{depth}}",
        "~a deeper model: {depth}",
        "go up to {depth}",
        f"let {_MODEL} have {{depth}}",
        f"give {_MODEL} {{depth}}",
        "stack more layers on top, {depth}",
        "append new layers at the end, so that there are {depth}",
        f"~I want {_MODEL} to have {{depth}}",
        "~(could|can) you increase the depth to {depth}?",
        f"lengthen {_MODEL} to {{depth}}",
        "deepen the stack to {depth}",
        "{double} the depth",
        f"{{double}} the depth of {_MODEL}",
        "{double} the number of (layers|blocks)",
        f"make {_MODEL} deeper: {{double}} the depth",
        "~I want to {double} the depth",
        f"make {_MODEL} twice as deep ({{double}} it)".replace("({double} it)", "<{double} the depth>"),
    ),
    unseen=(
        f"scale {_MODEL} up to {{depth}}",
        f"~{_MODEL} should become as deep as {{depth}}",
        "pile up fresh layers at the top until it is {depth}",
        f"bring {_MODEL} up to {{depth}}",
        "{double} the layer count",
        "{double} the stack of layers",
    ),
    propose=_propose_grow,
    refuse=(_same_depth("grow_depth"), _no_stack("grow_depth")),  # type: ignore[arg-type]
    weight=0.8,
    combines=False,
)


def _reads_ids(block: Block, node: Node) -> bool:
    """Whether an Embedding looks up an integer input of the block as it came, but for its shape."""
    value = node.inputs[0]
    for _ in range(6):
        if value in {v.name for v in block.inputs}:
            return True
        source = block.by_name.get(producer(value))
        if source is None or source.op not in ("Reshape", "Flatten", "Identity", "Cast", "Squeeze", "Unsqueeze"):
            return False
        value = source.inputs[0]
    return False


def counts_positions(block: Block, node: Node) -> bool:
    """Whether an Embedding looks up positions: numbers that come from no input."""
    seen, stack = set(), [node.inputs[0]]
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        source = block.by_name.get(producer(value))
        if source is None:
            return False
        stack += [v for v in source.inputs if v]
    return any(block.by_name[producer(v)].op == "Arange" for v in seen)


def _word_size(anatomy: Anatomy) -> int:
    """Rows of the first embedding of the model's own ids; 0 where there is none."""
    main = anatomy.graph.main
    found = [n for n in main.nodes if n.op == "Embedding" and _reads_ids(main, n)]
    return int(found[0].attr_map["num_embeddings"]) if found else 0


def vocabulary_nodes(anatomy: Anatomy) -> list[Node]:
    """The embeddings of the vocabulary and the Linears of that width whose result the model gives."""
    main, size = anatomy.graph.main, _word_size(anatomy)

    def belongs(node: Node) -> bool:
        if node.op == "Embedding":
            return _reads_ids(main, node) and node.attr_map["num_embeddings"] == size
        return node.op == "Linear" and node.attr_map["out_features"] == size and node.name in main.outputs

    return [node for node in main.nodes if belongs(node)]


def _propose_vocabulary(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    nodes = vocabulary_nodes(anatomy) if _word_size(anatomy) else []
    if not nodes or nodes[0].op != "Embedding":
        return None
    size = usual(rng, (1000, 5000, 8000, 10000, 16000, 16384, 30000, 32000, 32768, 50000, 50304, 64000, 100000, 128000,
        128256, 151936, 256000), 100, 60000)  # fmt: skip
    slots = {"size": _size_words(size, ("tokens", "words", "entries"), ("token ids",))}
    values = {"vocab_size": size}
    if size == _word_size(anatomy):
        return refusal_draft("vocab_size", "already_so", slots, values=values)

    def build(writer: ScriptWriter) -> None:
        writer.at()
        for node in nodes:
            name = "num_embeddings" if node.op == "Embedding" else "out_features"
            writer.set(node.name, **{name: Number.of(size)})

    return Draft(request=Request(intent="vocab_size", values=tuple(values.items())), slots=slots, build=build)


def _size_words(size: int, nouns: tuple[str, ...], held_out: tuple[str, ...]) -> Phrases:
    seen = [f"{size}", f"{size}", *(f"{size} {noun}" for noun in nouns)]
    return Phrases(tuple(seen), tuple(f"{size} {noun}" for noun in held_out))


def _without(name: str, slots: dict[str, Phrases], missing: object) -> object:
    """A refusal where the model has nothing of the kind."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        del rng
        return refusal_draft(name, "not_applicable", slots) if missing(anatomy) else None  # type: ignore[operator]

    return propose


_VOCAB = "(vocabulary|vocab|token vocabulary)"
VOCAB_SIZE = Intent(
    name="vocab_size",
    reading="resize",
    seen=(
        f"set the {_VOCAB} size to {{size}}",
        f"(resize|change|adjust) the {_VOCAB} to {{size}}",
        f"use a {_VOCAB} of {{size}}",
        "(resize|change) the token embeddings to {size}",
        "resize the embedding and the (lm head|output layer) to {size}",
        f"~{_VOCAB} size {{size}}",
        "~vocab_size={size}",
        f"make the {_VOCAB} {{size}}",
        f"(grow|shrink|extend) the {_VOCAB} to {{size}}",
        f"give {_MODEL} a {_VOCAB} of {{size}}",
        f"let {_MODEL} have a {_VOCAB} of {{size}}",
        f"switch to a {_VOCAB} of {{size}}",
        f"~the {_VOCAB} (should|must) have {{size}}",
        f"~I (want|need) a {_VOCAB} of {{size}}",
        f"~(could|can) you change the {_VOCAB} size to {{size}}?",
        "fit the embeddings to a tokenizer with {size}",
        f"adapt {_MODEL} to a tokenizer with {{size}}",
        "set the number of tokens in the embedding to {size}",
        "resize token embeddings = {size}",
        f"have {{size}} in the {_VOCAB}",
        f"bring the {_VOCAB} to {{size}}",
    ),
    unseen=(
        f"pick {{size}} as the size of the {_VOCAB}",
        "~my tokenizer knows {size}, make the model fit",
        "rescale the lookup table and the head to {size}",
        f"~{_MODEL} has to cope with {{size}} as its {_VOCAB}",
        f"choose a {_VOCAB} with room for {{size}}",
    ),
    propose=_propose_vocabulary,
    refuse=(
        _without("vocab_size", {"size": say("8000", "32000", "50257")}, lambda a: not a.is_text),  # type: ignore[arg-type]
    ),
    weight=0.9,
)


def _positions(anatomy: Anatomy) -> list[tuple[Block, Node]]:
    blocks = anatomy.graph.all_blocks
    return [(b, n) for b in blocks for n in b.nodes if n.op == "Embedding" and counts_positions(b, n)]


def _propose_context(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    found = _positions(anatomy)
    if not found:
        return None
    size = usual(rng, (128, 256, 512, 1000, 1024, 1536, 2048, 3000, 4096, 8192, 16384, 32768), 64, 9000)
    names = {(b.name, n.name) for b, n in found}
    wanted = {n.name for _, n in found}
    slots = {"size": _size_words(size, ("positions", "tokens"), ("places",))}
    if all(n.attr_map["num_embeddings"] == size for _, n in found):
        return refusal_draft("context_length", "already_so", slots, values={"positions": size})

    def build(writer: ScriptWriter) -> None:
        def edit(w: ScriptWriter, roles: object) -> None:
            for node in w.block.nodes:
                if (roles.block.name, node.name) in names:  # type: ignore[attr-defined]
                    w.set(node.name, num_embeddings=Number.of(size))

        edit_blocks(writer, anatomy, lambda n: n.op == "Embedding" and n.name in wanted, edit)

    return Draft(request=Request(intent="context_length", values=(("positions", size),)), slots=slots, build=build)


_CONTEXT = "(context length|context|context window|maximum sequence length|maximum length)"
CONTEXT_LENGTH = Intent(
    name="context_length",
    reading="resize",
    seen=(
        f"set the {_CONTEXT} to {{size}}",
        f"(extend|change|resize) the {_CONTEXT} to {{size}}",
        "(resize|extend|change) the position embeddings to {size}",
        "~max_position_embeddings={size}",
        f"~{_CONTEXT} {{size}}",
        f"use a {_CONTEXT} of {{size}}",
        f"make the {_CONTEXT} {{size}}",
        f"let {_MODEL} (read|take|handle) up to {{size}}",
        f"give {_MODEL} a {_CONTEXT} of {{size}}",
        "set the number of positions to {size}",
        "use {size} in the position table",
        f"(lengthen|shorten) the {_CONTEXT} to {{size}}",
        f"~the {_CONTEXT} (should|must) be {{size}}",
        f"~I (want|need) a {_CONTEXT} of {{size}}",
        f"~(could|can) you set the {_CONTEXT} to {{size}}?",
        f"switch to a {_CONTEXT} of {{size}}",
        "make room for {size} in the position embedding",
        "~n_positions={size}",
        "adapt the learned positions to {size}",
        f"bring the {_CONTEXT} to {{size}}",
        f"have a {_CONTEXT} of {{size}}",
    ),
    unseen=(
        f"pick {{size}} as the {_CONTEXT}",
        "~inputs may be as long as {size}, enlarge the position table",
        "rescale the table of positions to {size}",
        f"~{_MODEL} has to read {{size}} at once",
        f"choose a {_CONTEXT} that reaches {{size}}",
    ),
    propose=_propose_context,
    refuse=(
        _without("context_length", {"size": say("512", "2048", "4096")}, lambda a: a.is_conv and not a.has_attention),  # type: ignore[arg-type]
    ),
    weight=0.8,
)

SCALING = (REDUCE_DEPTH, GROW_DEPTH, VOCAB_SIZE, CONTEXT_LENGTH)
