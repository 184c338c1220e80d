"""Edits of whole layers: take out, copy, put in, and connections around them."""

import random
from collections.abc import Callable, Iterable

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.draft import Build, Draft, Intent, layer_draft, out_of_range, refusal_draft, target_or_all
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import BlockRoles, ResidualRole
from genmad.intents.targets import COUNTS, Target, pick_target
from genmad.intents.types import Request
from genmad.intents.wordings.slots import SLOTS, numbered
from genmad.intents.writing import ScriptWriter


def keeps_type(anatomy: Anatomy, layer: Layer) -> bool:
    """Whether a call gives back what it got, so that it can be left out, repeated or bypassed."""
    place = anatomy.paths[layer.path]
    source = place.node.inputs[0]
    return place.block.types[source] == place.node.types[0] and not _others_used(anatomy, layer)


def _others_used(anatomy: Anatomy, layer: Layer) -> bool:
    """Whether an output other than the first is read."""
    place = anatomy.paths[layer.path]
    return any(place.block.users[v] or v in place.block.outputs for v in place.node.outputs[1:])


def is_leaf(anatomy: Anatomy, layer: Layer) -> bool:
    return not any(n.is_call for n in anatomy.graph.block_map[layer.block].nodes)


def per_container(writer: ScriptWriter, layers: Iterable[Layer], change: Callable[[Layer], None]) -> None:
    """Runs `change` for each layer in a section of the block that the layer is called from."""
    container: str | None = None
    for layer in layers:
        if layer.container != container:
            container = layer.container
            writer.at(*([container] if container else []))
        change(layer)


def _draft(intent: str, target: Target, build: Build, slots: dict[str, Phrases], **values: object) -> Draft:
    request = Request(intent=intent, layers=target.paths, values=tuple(values.items()))
    return Draft(
        request=request,
        slots={**slots, "target": target.phrases},
        build=build,
        layers=target.layers,
        exact=target.exact,
    )


def _propose_remove(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target = pick_target(anatomy, rng, lambda x: keeps_type(anatomy, x))
    if target is None or _empties(anatomy, target):
        return None

    def build(writer: ScriptWriter) -> None:
        per_container(writer, target.layers, lambda layer: writer.remove(layer.call))

    return _draft("remove_layer", target, build, {})


def _empties(anatomy: Anatomy, target: Target) -> bool:
    """Whether nothing is left of some list of layers."""
    gone = set(target.layers)
    stems = {(x.stem, x.side) for x in target.layers}
    return any(all(x in gone for x in anatomy.layers if (x.stem, x.side) == stem) for stem in stems)


def _refuse_remove(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """All layers, or one whose output has another shape than its input."""
    if rng.random() < 0.5:
        target = pick_target(anatomy, rng, lambda x: not keeps_type(anatomy, x), single=True)
    else:
        target = pick_target(anatomy, rng)
        target = target if target is not None and target.whole else None
    if target is None:
        return None
    return refusal_draft("remove_layer", "not_applicable", {"target": target.phrases}, exact=target.exact)


REMOVE_LAYER = Intent(
    name="remove_layer",
    reading="remove",
    seen=(
        "remove {target}",
        "(delete|drop) {target}",
        "(cut|cut out|take out) {target}",
        "get rid of {target}",
        "(remove|delete) {target} (from the model|from the network|completely|entirely)",
        "~{target}: (remove|delete)",
        "(prune|prune away) {target}",
        "make the model shallower by removing {target}",
        "(strip|erase) {target} (from the model|from the network)",
        "skip {target} (altogether|entirely)",
        "throw {target} out",
        "leave out {target}",
        "make (a smaller|a shallower) model without {target}",
    ),
    unseen=(
        "dispense with {target}",
        "~{target} can go",
        "~we do not need {target} any more",
        "discard {target}",
        "excise {target}",
    ),
    propose=_propose_remove,
    refuse=(out_of_range("remove_layer", lambda _: {}), _refuse_remove, _refuse_remove),
    weight=1.3,
)


def _propose_duplicate(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target = pick_target(
        anatomy, rng, lambda x: keeps_type(anatomy, x) and is_leaf(anatomy, x), single=rng.random() < 0.7
    )
    if target is None:
        return None

    def duplicate(writer: ScriptWriter, layer: Layer) -> None:
        node = writer.node(layer.call)
        out = node.outputs[0]
        writer.swap_uses(out, writer.call(layer.call, (out, *node.inputs[1:]), "copy"))

    def build(writer: ScriptWriter) -> None:
        per_container(writer, target.layers, lambda layer: duplicate(writer, layer))

    return _draft("duplicate_layer", target, build, {})


DUPLICATE = Intent(
    name="duplicate_layer",
    reading="duplicate",
    seen=(
        "(duplicate|copy|repeat) {target}",
        "duplicate {target} (right after itself|right after it|with its weights)",
        "make a copy of {target}",
        "add a copy of {target} (right after it|after it|behind it)",
        "insert a copy of {target}",
        "run {target} twice with (separate|its own) (copies|copied weights)",
        "~{target}: (duplicate|copy)",
        "stack a copy on top of {target}",
        "(clone|double up) {target}",
        "~a (copy|second copy) of {target} (right after it|behind it)",
        "(grow|deepen) the model by (copying|duplicating) {target}",
        "append a duplicate (right |)after {target}",
        "create a duplicate of {target}",
    ),
    unseen=(
        "replicate {target}",
        "have {target} in there twice",
        "~{target} should appear two times in a row",
        "put a twin of {target} behind it",
        "reproduce {target} directly afterwards",
    ),
    propose=_propose_duplicate,
    refuse=(out_of_range("duplicate_layer", lambda _: {}),),
    weight=1.2,
)


def _propose_insert(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target = pick_target(anatomy, rng, lambda x: keeps_type(anatomy, x) and is_leaf(anatomy, x), single=True)
    if target is None:
        return None
    layer, before = target.layers[0], rng.random() < 0.35
    number = rng.choices((1, 2, 3, 4), (8, 2, 1, 0.5))[0]

    def insert(writer: ScriptWriter) -> None:
        node = writer.node(layer.call)
        value = node.inputs[0] if before else node.outputs[0]
        start = value
        for _ in range(number):
            value = writer.call(layer.call, (value, *node.inputs[1:]), "new")
        if before:
            writer.rewire(layer.call, 0, value)
        else:
            writer.swap_uses(start, value)

    def build(writer: ScriptWriter) -> None:
        per_container(writer, target.layers, lambda _: insert(writer))

    return _draft("insert_layer", target, build, _insert_slots(number, before), count=number, before=before)


def _insert_slots(number: int, before: bool) -> dict[str, Phrases]:
    where = (
        say("before", "in front of", *SLOTS["before"], unseen=("ahead of",))
        if before
        else say("after", "right after", "behind", *SLOTS["after"], unseen=("following",))
    )
    if number == 1:
        what = say(
            "a new layer",
            *SLOTS["a layer"],
            "a layer",
            "a fresh layer",
            "another layer",
            "one more layer",
            "a new block",
            unseen=("an untrained layer",),
        )
        return {"where": where, "what": what}
    n = f"({number}|{COUNTS[number]})"
    return {
        "where": where,
        "what": say(
            f"{n} new layers",
            f"{n} layers",
            f"{n} more layers",
            f"{n} fresh blocks",
            *numbered("n layers", n),
            unseen=(f"{n} untrained layers",),
        ),
    }


INSERT_LAYER = Intent(
    name="insert_layer",
    reading="insert",
    seen=(
        "(insert|add) {what} {where} {target}",
        "(put|place) {what} {where} {target}",
        "~{what} {where} {target}",
        "(append|attach) {what} {where} {target}",
        "{where} {target}, (add|insert) {what}",
        "make the model deeper: {what} {where} {target}",
        "(grow|extend) the model (by|with) {what} {where} {target}",
        "stack {what} {where} {target}",
        "insert {what} (with new weights |with random weights |){where} {target}",
        "introduce {what} {where} {target}",
        "deepen the network with {what} {where} {target}",
        "have {what} {where} {target}",
        "add {what} (directly |immediately |){where} {target}",
    ),
    unseen=(
        "squeeze {what} in {where} {target}",
        "~{where} {target} there should be {what}",
        "slot in {what} {where} {target}",
        "~we want {what} {where} {target}",
        "lengthen the stack: {what} {where} {target}",
    ),
    propose=_propose_insert,
    refuse=(out_of_range("insert_layer", lambda rng: _insert_slots(1, rng.random() < 0.3)),),
    weight=1.2,
)


def _part_ends(roles: BlockRoles, part: str) -> tuple[str, str]:
    """(input, output) values of the attention or of the MLP, ("", "") where there is none."""
    if part == "attention":
        return (roles.own.source, roles.own.out) if roles.own else ("", "")
    return (roles.mlps[-1].source, roles.mlps[-1].down) if roles.mlps else ("", "")


def _same_ends(roles: BlockRoles, part: str) -> bool:
    start, end = _part_ends(roles, part)
    return bool(start) and roles.block.types[start] == roles.block.types[end]


def _propose_skip(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    if rng.random() < 0.5:
        return _skip_part(anatomy, rng)
    target = pick_target(anatomy, rng, lambda x: keeps_type(anatomy, x))
    if target is None:
        return None

    def skip(writer: ScriptWriter, layer: Layer) -> None:
        node = writer.node(layer.call)
        writer.swap_uses(node.outputs[0], writer.add("Add", node.inputs[0], node.outputs[0]))

    def build(writer: ScriptWriter) -> None:
        per_container(writer, target.layers, lambda layer: skip(writer, layer))

    return _draft("skip_connection", target, build, {}, around="layer")


_PARTS = {
    "attention": say(
        "the attention",
        "the self-attention",
        "the attention module",
        *SLOTS["the attention"],
        unseen=("the attention sublayer",),
    ),
    "mlp": say(
        "the mlp",
        *SLOTS["the mlp"],
        "the MLP",
        "the feed-forward",
        "the ffn",
        "the feed-forward network",
        unseen=("the feed-forward sublayer",),
    ),
}


def _skip_part(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    part = rng.choice(list(_PARTS))
    target, said = target_or_all(anatomy, rng, lambda x: _same_ends(anatomy.roles(x.block), part), 0.1)
    if target is None:
        return None

    def edit(writer: ScriptWriter, roles: BlockRoles) -> None:
        start, end = _part_ends(roles, part)
        writer.swap_uses(end, writer.add("Add", start, end))

    return layer_draft(
        "skip_connection", anatomy, target, edit, values={"around": part}, slots={"part": _PARTS[part]}, say_target=said
    )  # fmt: skip


def _refuse_skip(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target = pick_target(anatomy, rng, lambda x: not keeps_type(anatomy, x), single=True)
    if target is None:
        return None
    return refusal_draft("skip_connection", "not_applicable", {"target": target.phrases}, exact=target.exact)


SKIP = Intent(
    name="skip_connection",
    reading="connect",
    seen=(
        "add a (skip|residual) connection around {target}",
        "add a (skip|residual) connection (from the input to the output of|over|across) {target}",
        "(insert|put) a (skip|residual|shortcut) connection around {target}",
        "add the input of {target} to its output",
        "~(skip|residual) connection around {target}",
        "~{target}: (skip|residual) connection",
        "add a (skip|residual) connection around {part}[ (of|in) {target}]",
        "(insert|put) a (skip|shortcut|residual connection) around {part}[ (of|in) {target}]",
        "add the input of {part}[ (of|in) {target}] to its output",
        "~(skip|residual) connection around {part}[ (of|in) {target}]",
        "~{target}: (skip|residual) connection around {part}",
        "connect the input of {part}[ (of|in) {target}] with its output",
        "connect the input of {target} (with|to) its output (by|with) a skip connection",
        "(wrap|surround) {target} (in|with) a residual connection",
        "(wrap|surround) {part}[ (of|in) {target}] (in|with) a residual connection",
        "give {target} a (skip|residual) connection",
        "make {target} residual",
        "make {part}[ (of|in) {target}] residual",
    ),
    unseen=(
        "let the input of {target} bypass it and be summed with its output",
        "route an identity path past {target}",
        "~{target} needs an identity shortcut",
        "bridge {target} with a shortcut",
        "let the input of {part}[ (of|in) {target}] bypass it and be summed with its output",
        "route an identity path past {part}[ (of|in) {target}]",
        "bridge {part}[ (of|in) {target}] with a shortcut",
        "~an identity shortcut past {part}[ (in|for) {target}]",
    ),
    propose=_propose_skip,
    refuse=(_refuse_skip, out_of_range("skip_connection", lambda _: {})),
    weight=1.2,
)


def _branch_add(roles: BlockRoles, part: str) -> ResidualRole | None:
    end = _part_ends(roles, part)[1]
    return roles.residual_of(end) if end else None


def _propose_bypass(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    part = rng.choice(list(_PARTS))
    target, said = target_or_all(anatomy, rng, lambda x: _branch_add(anatomy.roles(x.block), part) is not None, 0.06)
    if target is None:
        return None

    def edit(writer: ScriptWriter, roles: BlockRoles) -> None:
        add = _branch_add(roles, part)
        assert add is not None
        writer.swap_uses(add.node, add.skip)

    return layer_draft(
        "remove_module", anatomy, target, edit, values={"part": part}, slots={"part": _PARTS[part]}, say_target=said
    )  # fmt: skip


def _refuse_bypass(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    if anatomy.has_attention:
        return None
    target = pick_target(anatomy, rng)
    slots = {"part": _PARTS["attention"]}
    if target is None:
        return None
    return refusal_draft("remove_module", "not_applicable", {**slots, "target": target.phrases}, exact=target.exact)


REMOVE_MODULE = Intent(
    name="remove_module",
    reading="remove",
    seen=(
        "remove {part}[ (from|of|in) {target}]",
        "(delete|drop) {part}[ (from|of|in) {target}]",
        "(cut out|take out) {part}[ (of|in) {target}]",
        "get rid of {part}[ in {target}]",
        "(skip|bypass) {part}[ (of|in) {target}]",
        "~{target}: (remove|drop) {part}",
        "~{target} without {part}",
        "(strip|prune) {part}[ (from|of) {target}]",
        "leave out {part}[ (of|in) {target}]",
        "throw {part} out[ of {target}]",
        "make {target} work without {part}",
        "disable {part}[ in {target}]",
        "(remove|delete) {part}[ (of|in) {target}] and keep the residual (stream|path)",
    ),
    unseen=(
        "dispense with {part}[ in {target}]",
        "~no need for {part}[ in {target}]",
        "discard {part}[ (of|in) {target}]",
        "~{part}[ (of|in) {target}] can go",
        "excise {part}[ (of|in) {target}]",
    ),
    propose=_propose_bypass,
    refuse=(_refuse_bypass, out_of_range("remove_module", lambda rng: {"part": _PARTS[rng.choice(list(_PARTS))]})),
    weight=0.9,
)


LAYERS = (REMOVE_LAYER, DUPLICATE, INSERT_LAYER, SKIP, REMOVE_MODULE)
