"""Low-rank adaptation of linear layers."""

import random
from collections.abc import Callable, Mapping

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.draft import Draft, Intent, layer_draft, out_of_range, refusal_draft, target_or_all
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import BlockRoles
from genmad.intents.targets import pick_target
from genmad.intents.types import Request
from genmad.intents.values import rank_phrases, usual
from genmad.intents.wordings.slots import SLOTS, numbered
from genmad.intents.writing import Number, ScriptWriter
from genmad.ir.graph import Node

DEFAULT_RANK = 8
Choose = Callable[[BlockRoles], tuple[str, ...]]

_ROLES: dict[str, Phrases] = {
    "q": say("the query projection", "the query projections", "the queries", "the query", *SLOTS["lora q"],
    unseen=("the projection of the queries",)),
    "k": say("the key projection", "the key projections", "the keys", unseen=("the projection of the keys",)),
    "v": say("the value projection", "the value projections", "the values", unseen=("the projection of the values",)),
    "qv": say("the query and value projections", "query and value", "the queries and values", "q and v",
    *SLOTS["lora qv"],
    unseen=("queries as well as values",)),
    "qkv": say("the query, key and value projections", "q, k and v", "the qkv projections", *SLOTS["lora qkv"],
    unseen=("all of q, k and v",)),
    "fused": say("the qkv projection", "the fused qkv projection", "the query/key/value projection",
    *SLOTS["lora fused"],
    unseen=("the joint qkv linear",)),
    "o": say("the attention output projection", "the output projection of the attention", *SLOTS["lora o"],
    unseen=("the linear that ends the attention",)),
    "attention": say("the attention", "all attention projections", "the attention projections",
    *SLOTS["lora attention"],
    "the attention layers", "the linear layers of the attention",
                     unseen=("every projection of the attention",)),
    "mlp": say("the mlp", "the MLP", "the feed-forward", "the mlp layers", "the linear layers of the mlp",
    *SLOTS["lora mlp"],
    "the ffn", unseen=("every linear of the feed-forward",)),
    "up": say("the up projection", "the first mlp layer", "the first linear layer of the mlp", *SLOTS["lora up"],
    unseen=("the linear that opens the mlp",)),
    "down": say("the down projection", "the last mlp layer", "the second linear layer of the mlp", *SLOTS["lora down"],
    unseen=("the linear that ends the mlp",)),
    "all": say("all linear layers", "every linear layer", "all linears", "all Linear layers", "all projections",
    *SLOTS["lora all"],
    unseen=("each and every linear",)),
}  # fmt: skip


def _by_role(role: str) -> Choose:
    """Names of the linears in a role, in block order."""

    def choose(roles: BlockRoles) -> tuple[str, ...]:
        own, mlp = roles.own, roles.mlps[-1] if roles.mlps else None
        if role == "all":
            return tuple(n.name for n in roles.linears)
        found: list[str] = []
        if own is not None:
            separate = {"q": [own.q], "k": [own.k], "v": [own.v], "qv": [own.q, own.v], "qkv": [own.q, own.k, own.v]}
            found += separate.get(role, []) if not own.fused and len({own.q, own.k, own.v}) == 3 else []
            found += [own.q] if role == "fused" and own.fused else []
            found += [own.out] if role == "o" and own.out != own.node else []
            found += [own.q, own.k, own.v, own.out] if role == "attention" else []
        if mlp is not None:
            parts = {"mlp": [*mlp.up, mlp.down], "up": [mlp.up[0]] if not mlp.product else [], "down": [mlp.down]}
            found += parts.get(role, [])
        return tuple(n.name for n in roles.linears if n.name in found)

    return choose


def _by_name(names: tuple[str, ...]) -> Choose:
    """Linears whose name is, or ends in, one of the names said."""

    def choose(roles: BlockRoles) -> tuple[str, ...]:
        return tuple(n.name for n in roles.linears if any(n.name == x or n.name.endswith("." + x) for x in names))

    return choose


def put_lora(writer: ScriptWriter, names: tuple[str, ...], rank: int, alpha: int | None) -> None:
    settings = {"rank": Number.of(rank)} | ({"alpha": Number.of(alpha)} if alpha is not None and alpha != 16 else {})
    for name in names:
        writer.put(name, "LoRALinear", **settings)


def _names(linears: tuple[Node, ...], rng: random.Random) -> tuple[str, ...]:
    """One or two module names as people say them: the last piece, or the last two."""
    picked = rng.sample([n.name for n in linears], min(len(linears), rng.choice((1, 1, 2))))
    said = []
    for name in picked:
        pieces = name.split(".")
        size = 1 if rng.random() < 0.6 else 2 if rng.random() < 0.7 else len(pieces)
        said.append(".".join(pieces[-size:]))
    return tuple(dict.fromkeys(said))


def _name_phrases(names: tuple[str, ...]) -> Phrases:
    if len(names) == 1:
        return say(
            names[0],
            names[0],
            f"the {names[0]}",
            f"the {names[0]} projection",
            f"{names[0]} layers",
            unseen=(f"`{names[0]}`", f"the module {names[0]}"),
        )
    a, b = names
    return say(
        f"{a} and {b}",
        f"{a}, {b}",
        f"the {a} and {b} projections",
        f"{a} & {b}",
        unseen=(f"`{a}` and `{b}`", f"both {a} and {b}"),
    )


def _lora_numbers(rng: random.Random) -> tuple[int | None, int | None, dict[str, Phrases]]:
    rank = usual(rng, (1, 2, 4, 8, 16, 32, 64, 6, 12, 24), 1, 64) if rng.random() < 0.7 else None
    alpha = rng.choice((8, 16, 32, 64, 128)) if rank and rng.random() < 0.2 else None
    slots = {"rank": rank_phrases(rank)} if rank else {}
    if alpha:
        slots["alpha"] = say(
            f"alpha {alpha}",
            f"alpha={alpha}",
            f"lora_alpha={alpha}",
            *numbered("alpha", alpha),
            unseen=(f"a scaling alpha of {alpha}",),
        )
    return rank, alpha, slots


def _propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    if not anatomy.layers or rng.random() < 0.06:
        return _propose_main(anatomy, rng)
    linears = anatomy.roles(rng.choice(anatomy.layers).block).linears
    if not linears:
        return _propose_main(anatomy, rng)
    by_name = rng.random() < 0.5
    names = _names(linears, rng) if by_name else ()
    role = "" if by_name else rng.choice(list(_ROLES))
    choose = _by_name(names) if by_name else _by_role(role)
    whole_layer = role == "all" and rng.random() < 0.5
    target, said = target_or_all(anatomy, rng, lambda x: _fits(anatomy, x, choose, names), 0.0 if whole_layer else 0.35)
    if target is None:
        return None
    rank, alpha, slots = _lora_numbers(rng)
    if not whole_layer:
        slots["what"] = _name_phrases(names) if by_name else _ROLES[role]
    nodes = tuple(f"{x.path}.{name}" for x in target.layers for name in choose(anatomy.roles(x.block)))
    return layer_draft(
        "lora", anatomy, target, lambda w, r: put_lora(w, choose(r), rank or DEFAULT_RANK, alpha),
        values={"rank": rank, "alpha": alpha}, slots=slots, nodes=nodes, say_target=said, exact=by_name,
    )  # fmt: skip


def _fits(anatomy: Anatomy, layer: Layer, choose: Choose, names: tuple[str, ...]) -> bool:
    """Whether the layer has what is meant, each name said once at most meaning one node unless all are meant."""
    roles = anatomy.roles(layer.block)
    return bool(choose(roles)) and all(_by_name((name,))(roles) for name in names)


def _propose_main(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """A linear of the main block, such as lm_head or the classifier."""
    linears = anatomy.roles(anatomy.graph.main.name).linears
    if not linears:
        return None
    name = rng.choice(linears).name
    rank, alpha, slots = _lora_numbers(rng)
    slots["what"] = _name_phrases((name,))

    def build(writer: ScriptWriter) -> None:
        writer.at()
        put_lora(writer, (name,), rank or DEFAULT_RANK, alpha)

    request = Request(intent="lora", nodes=(name,), values=(("rank", rank), ("alpha", alpha)))
    return Draft(request=request, slots=slots, build=build, exact=True)


_FOREIGN = (
    "q_proj", "k_proj", "v_proj", "o_proj", "c_attn", "c_proj", "c_fc", "query", "key", "value", "gate_proj",
    "up_proj", "down_proj", "fc1", "fc2",
    "out_proj", "in_proj", "wq", "wo", "dense_h_to_4h", "query_key_value", "pwconv1", "lin1", "qkv_proj", "z_proj",
    "proj_out", "to_q", "r_proj", "x_proj",
)  # fmt: skip


def _absent_name(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """A projection that the model does not have."""
    known = {piece for p in anatomy.places for piece in p.path.split(".")}
    names = [n for n in _FOREIGN if n not in known]
    target = pick_target(anatomy, rng)
    rank, _, slots = _lora_numbers(rng)
    slots["what"] = _name_phrases((rng.choice(names),))
    exact = True
    if target is not None and rng.random() < 0.5:
        slots["target"] = target.phrases
    return refusal_draft("lora", "no_such_target", slots, values={"rank": rank}, exact=exact)


def _far(rng: random.Random) -> Mapping[str, Phrases]:
    return {"what": _ROLES[rng.choice(("q", "mlp", "attention", "all"))], **_lora_numbers(rng)[2]}


_NUMBERS = "[ with {rank}][ and {alpha}]"
_COMMAS = "[, {rank}][, {alpha}]"
LORA = Intent(
    name="lora",
    reading="adapt",
    seen=(
        "add (LoRA|lora|a LoRA adapter)[ to {what}][ (in|of) {target}]" + _NUMBERS,
        "add (LoRA|lora)" + _NUMBERS + "[ to {what}][ (in|of) {target}]",
        "(apply|attach) (LoRA|lora|LoRA adapters)[ to {what}][ (in|of) {target}]" + _NUMBERS,
        "put (LoRA|lora|LoRA adapters)[ on {what}][ (in|of) {target}]" + _NUMBERS,
        "use (LoRA|lora)[ (for|on) {what}][ (in|of) {target}]" + _NUMBERS,
        "~(LoRA|lora)[ (on|for) {what}][ (in|of) {target}]" + _COMMAS,
        "~{target}: (LoRA|lora)[ on {what}]" + _COMMAS,
        "adapt {what}[ (in|of) {target}] (with|by) (LoRA|low-rank adapters)" + _NUMBERS,
        "adapt {target} (with|by) (LoRA|low-rank adapters)" + _NUMBERS,
        "add low-rank adapters[ to {what}][ (in|of) {target}]" + _NUMBERS,
        "make {what}[ (in|of) {target}] (LoRA layers|low-rank adapted)" + _NUMBERS,
        "(turn|convert) {what}[ (in|of) {target}] into LoRA layers" + _NUMBERS,
        "(wrap|equip) {what}[ (in|of) {target}] with (LoRA|lora)" + _NUMBERS,
        "(wrap|equip|extend) {target} with (LoRA|lora)" + _NUMBERS,
        "(finetune|fine-tune) {what}[ (in|of) {target}] with (LoRA|lora)" + _NUMBERS,
        "insert (LoRA|low-rank) (adapters|matrices)[ (in|into) {what}][ (in|of) {target}]" + _NUMBERS,
        "(add|apply) (LoRA|lora) to (my|the|this) (model|network) (at|in) {target}" + _NUMBERS,
    ),
    unseen=(
        "give {what}[ (in|of) {target}] a trainable low-rank update" + _NUMBERS,
        "prepare {what}[ (in|of) {target}] for LoRA tuning" + _NUMBERS,
        "~we want low-rank adaptation[ of {what}][ (in|for) {target}]" + _COMMAS,
        "~{what}[ (in|of) {target}] should carry LoRA matrices" + _COMMAS,
        "set up LoRA[ on {what}][ within {target}]" + _NUMBERS,
        "prepare {target} for LoRA training" + _NUMBERS,
    ),
    propose=_propose,
    refuse=(_absent_name, _absent_name, out_of_range("lora", _far)),
    weight=2.2,
)

ADAPTING = (LORA,)
