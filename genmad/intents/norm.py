"""Edits of normalization: another kind, one more, scales on branches."""

import random
from collections.abc import Mapping

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.draft import Draft, Intent, layer_draft, out_of_range, refusal_draft, target_or_all
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import BlockRoles
from genmad.intents.targets import pick_target
from genmad.intents.types import Request
from genmad.intents.wordings.slots import SLOTS, numbered
from genmad.intents.writing import Number, ScriptWriter, edit_blocks
from genmad.ir.graph import Node

NORM_NAMES = {
    "LayerNorm": say(
        "LayerNorm", "layernorm", "layer norm", "layer normalization", "layer-norm", "layer normalisation",
        "layernorms", "layer_norm", "layer norms", unseen=("LN", "normalization over features"),
    ),
    "RMSNorm": say(
        "RMSNorm", "rmsnorm", "rms norm", "RMS normalization", "root mean square normalization", "rms-norm",
        "RMS layer norm",
        "root-mean-square norm", "rms_norm", "rmsnorms", "root mean square layer normalization",
        unseen=("root mean square norm", "normalization by the root mean square"),
    ),
    "BatchNorm": say(
        "BatchNorm", "batchnorm", "batch norm", "batch normalization", "batch-norm", "batch normalisation",
        "batchnorms",        "BatchNorm2d", "batch_norm", unseen=("BN", "normalization over the batch"),
    ),
    "GroupNorm": say(
        "GroupNorm", "groupnorm", "group norm", "group normalization", "group-norm", "group normalisation",
        "group_norm",        unseen=("GN", "normalization over groups of channels"),
    ),
    "InstanceNorm": say(
        "InstanceNorm", "instancenorm", "instance norm", "instance normalization", "instance-norm", "InstanceNorm2d",
        "instance normalisation", unseen=("IN", "normalization per instance"),
    ),
    "ChannelLayerNorm": say(
        "ChannelLayerNorm", "channel layer norm", "channel-wise layer norm", "LayerNorm2d",
        "layer norm across channels",        "channels-first layer norm", unseen=("layer norm over channels",),
    ),
}  # fmt: skip
_SWAPS = {
    "LayerNorm": ("RMSNorm",),
    "RMSNorm": ("LayerNorm",),
    "BatchNorm": ("GroupNorm", "GroupNorm", "InstanceNorm", "ChannelLayerNorm"),
    "GroupNorm": ("BatchNorm", "InstanceNorm"),
    "ChannelLayerNorm": ("GroupNorm", "BatchNorm"),
    "InstanceNorm": ("BatchNorm", "GroupNorm"),
}
DEFAULT_GROUPS = 8


def _swappable(node: Node, old: str) -> bool:
    return node.op == old and node.attr_map.get("num_axes", 1) == 1


def swap_norms(writer: ScriptWriter, roles: BlockRoles, old: str, new: str, groups: int) -> None:
    for node in roles.norms:
        if _swappable(node, old):
            settings = {"num_groups": Number.of(groups)} if new == "GroupNorm" else {}
            writer.put(node.name, new, **settings)


def _propose_swap(possible: bool, anatomy: Anatomy, rng: random.Random) -> Draft | None:
    present = dict.fromkeys(n.op for b in anatomy.graph.all_blocks for n in b.nodes if n.op in _SWAPS)
    if not present:
        return None
    old = rng.choice(list(present))
    new = rng.choice(_SWAPS[old]) if possible else "GroupNorm"
    if not possible and "GroupNorm" not in _SWAPS[old]:
        return None
    slots = {"new": NORM_NAMES[new]}
    groups = None
    if new == "GroupNorm" and (rng.random() < 0.6 or not possible):
        groups = rng.choice((1, 2, 4, 8, 16, 32) if possible else (3, 5, 7, 11, 13, 17, 6, 12, 24))
        slots["groups"] = _group_phrases(groups)
    if rng.random() < 0.7:
        slots["old"] = NORM_NAMES[old]
    values = {"old": old, "new": new, "num_groups": groups}
    count = groups or DEFAULT_GROUPS
    refusal = "" if possible else "not_divisible"
    if rng.random() < 0.35 or not anatomy.layers:
        return _swap_everywhere(anatomy, old, new, count, slots, values, refusal)
    target = pick_target(anatomy, rng, lambda x: any(_swappable(n, old) for n in anatomy.roles(x.block).norms))
    if target is None:
        return None
    kinds = {n.op for x in target.layers for n in anatomy.roles(x.block).norms}
    if "old" not in slots and kinds != {old}:
        slots["old"] = NORM_NAMES[old]
    return layer_draft(
        "swap_norm", anatomy, target, lambda w, r: swap_norms(w, r, old, new, count), values=values, slots=slots,
        refusal=refusal
    )  # fmt: skip


def _group_phrases(groups: int) -> Phrases:
    noun = "group" if groups == 1 else "groups"
    return Phrases(
        (f"{groups} {noun}", f"num_groups={groups}", *numbered("norm groups", groups)), (f"{groups} channel {noun}",)
    )


def _swap_everywhere(
    anatomy: Anatomy, old: str, new: str, groups: int, slots: dict[str, Phrases], values: Mapping[str, object],
        refusal: str
) -> Draft:  # fmt: skip
    def touches(node: Node) -> bool:
        return _swappable(node, old)

    nodes = tuple(p.path for p in anatomy.places if touches(p.node))
    request = Request(intent="swap_norm", nodes=nodes, values=tuple(values.items()), refusal=refusal)
    slots.setdefault("old", NORM_NAMES[old])

    def build(writer: ScriptWriter) -> None:
        edit_blocks(writer, anatomy, touches, lambda w, r: swap_norms(w, r, old, new, groups))

    return Draft(request=request, slots=slots, build=build)


def _swap_absent(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """A normalization that the model does not have."""
    present = {n.op for b in anatomy.graph.all_blocks for n in b.nodes}
    if not present & set(NORM_NAMES):
        return None  # norms in primitive ops: what the user means is there
    absent = [n for n in ("BatchNorm", "RMSNorm", "LayerNorm", "GroupNorm") if n not in present and n in _SWAPS]
    target = pick_target(anatomy, rng)
    if not absent or target is None:
        return None
    old = rng.choice(absent)
    news = [n for n in _SWAPS[old] if n not in present] or list(_SWAPS[old])
    slots = {"old": NORM_NAMES[old], "new": NORM_NAMES[rng.choice(news)]}
    if rng.random() < 0.6:
        slots["target"] = target.phrases
    request = Request(intent="swap_norm", values=(("old", old),), refusal="no_such_target")
    return Draft(request=request, slots=slots, build=None, exact=target.exact)


def _swap_done(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """The kind of norm that is asked for is the only one there is."""
    present = {n.op for b in anatomy.graph.all_blocks for n in b.nodes if n.op in NORM_NAMES}
    if len(present) != 1:
        return None
    new = next(iter(present))
    slots = {"new": NORM_NAMES[new]}
    target = pick_target(anatomy, rng, lambda x: bool(anatomy.roles(x.block).norms))
    exact = False
    if target is not None and rng.random() < 0.6:
        slots["target"], exact = target.phrases, target.exact
    values = {"old": None, "new": new}
    return refusal_draft("swap_norm", "already_so", slots, values=values, exact=exact)


SWAP_NORM = Intent(
    name="swap_norm",
    reading="replace",
    seen=(
        "replace {old} (by|with) {new}[ in {target}][ with {groups}]",
        "replace (all|every|the) {old}[ (in|of) {target}] (by|with) {new}[ <{groups}>]",
        "(swap|exchange) {old} for {new}[ in {target}][, {groups}]",
        "use {new} instead of {old}[ in {target}][ with {groups}]",
        "~{new} instead of {old}[ in {target}][, {groups}]",
        "(change|convert|turn) {old}[ (in|of) {target}] (to|into) {new}[ with {groups}]",
        "~{old} -> {new}[ (in|for) {target}][, {groups}]",
        "make (all|every) {old}[ (in|of) {target}] (a |){new}[ with {groups}]",
        "use {new}[ in {target}][ with {groups}]",
        "replace the (normalization|norms|norm layers)[ (of|in) {target}] (by|with) {new}[ with {groups}]",
        "(switch|change) the (normalization|norms|norm layers)[ (of|in) {target}] to {new}[ with {groups}]",
        "~{target}: {new} instead of {old}[, {groups}]",
        "~{target}: normalize with {new}[, {groups}]",
        "normalize {target} (with|by) {new}[ with {groups}]",
        "put {new} in place of {old}[ in {target}][ with {groups}]",
    ),
    unseen=(
        "substitute {new} for {old}[ in {target}][, {groups}]",
        "trade {old} for {new}[ in {target}][ with {groups}]",
        "~no {old}[ in {target}], take {new}[ with {groups}]",
        "let {target} be normalized by {new}[ with {groups}]",
        "~{old} should become {new}[ in {target}][ with {groups}]",
    ),
    propose=lambda anatomy, rng: _propose_swap(True, anatomy, rng),
    refuse=(
        lambda anatomy, rng: _propose_swap(False, anatomy, rng),
        _swap_absent,
        _swap_done,
        out_of_range("swap_norm", lambda rng: {"new": NORM_NAMES[rng.choice(("LayerNorm", "RMSNorm", "GroupNorm"))]}),
    ),
    weight=1.4,
)


def _norm_place(roles: BlockRoles, where: str) -> str:
    """The value that a new norm reads, "" where there is no such place."""
    if where == "after attention":
        return roles.own.out if roles.own else ""
    if where == "after mlp":
        return roles.mlps[-1].down if roles.mlps else ""
    if where == "before mlp":
        return roles.mlps[-1].source if roles.mlps else ""
    if where == "before attention":
        return roles.own.source if roles.own else ""
    return roles.block.outputs[0] if roles.block.types[roles.block.outputs[0]].rank == 3 else ""


def insert_norm(writer: ScriptWriter, roles: BlockRoles, kind: str, where: str) -> None:
    value = _norm_place(roles, where)
    new = writer.add(kind, value)
    if not where.startswith("before"):
        writer.swap_uses(value, new)
        return
    role = roles.own
    part = roles.mlps[-1].up if where == "before mlp" else dict.fromkeys((role.q, role.k, role.v)) if role else ()
    readers = {name for name in part if value in roles.block.by_name[name].inputs}
    for node in roles.block.nodes:
        if node.name in readers:
            writer.rewire(node.name, 0, new)


_WHERES = {
    "after attention": say("after the attention", "after attention", "behind the attention", *SLOTS["after attention"],
    unseen=("following the attention",)),
    "after mlp": say("after the mlp", "after the MLP", "after the feed-forward", "behind the ffn", *SLOTS["after mlp"],
    unseen=("following the feed-forward part",)),
    "before mlp": say("before the mlp", "before the MLP", "in front of the feed-forward", "before the ffn",
    *SLOTS["before mlp"],
    unseen=("preceding the mlp",)),
    "before attention": say("before the attention", "before attention", "in front of the attention",
    *SLOTS["before attention"],
    unseen=("preceding the attention",)),
    "at the end": say("at the end", "at the output", *SLOTS["at the end"], unseen=("as the last thing",)),
}  # fmt: skip


def _propose_insert(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    where, kind = rng.choice(list(_WHERES)), rng.choice(("RMSNorm", "LayerNorm"))

    def fits(layer: Layer) -> bool:
        return bool(_norm_place(anatomy.roles(layer.block), where))

    target, said = target_or_all(anatomy, rng, fits, 0.0 if where == "at the end" else 0.12)
    if target is None:
        return None
    return layer_draft(
        "insert_norm", anatomy, target, lambda w, r: insert_norm(w, r, kind, where),
        values={"norm": kind, "where": where}, slots={"new": NORM_NAMES[kind], "where": _WHERES[where]},
        say_target=said,
    )  # fmt: skip


INSERT_NORM = Intent(
    name="insert_norm",
    reading="insert",
    seen=(
        "(insert|add|put|place) (a |an additional |){new} {where}[ (of|in) {target}]",
        "(insert|add) (an extra|another|one more) {new} {where}[ (of|in) {target}]",
        "~{target}: (add |insert |){new} {where}",
        "~{new} {where}[ (of|in) {target}]",
        "normalize {where}[ (of|in) {target}] with {new}",
        "give {target} (a |){new} {where}",
        "(put|place) {new} {where}[ in {target}]",
        "add normalization <{new}> {where}[ (of|in) {target}]",
        "introduce (a |){new} {where}[ in {target}]",
        "extend {target} with (a |){new} {where}",
        "~extra {new} {where}[ in {target}]",
        "apply {new} {where}[ in {target}]",
        "have (a |){new} {where}[ in {target}]",
    ),
    unseen=(
        "~there should be (a |){new} {where}[ in {target}]",
        "squeeze (a |){new} in {where}[ (of|in) {target}]",
        "fit {target} with (a |){new} {where}",
        "~we want one more {new} {where}[ (of|in) {target}]",
    ),
    propose=_propose_insert,
    refuse=(
        out_of_range(
            "insert_norm", lambda rng: {"new": NORM_NAMES["RMSNorm"], "where": _WHERES[rng.choice(list(_WHERES))]}
        ),
    ),
)


def _branches(roles: BlockRoles, where: str) -> list[str]:
    """Ends of the branches to scale, in dataflow order."""
    ends = {roles.own.out: "attention"} if roles.own else {}
    if roles.mlps:
        ends[roles.mlps[-1].down] = "mlp"
    return [value for value, part in ends.items() if not where or part == where]


def add_scales(writer: ScriptWriter, roles: BlockRoles, where: str) -> None:
    for value in _branches(roles, where):
        writer.swap_uses(value, writer.add("Scale", value))


def _propose_scale(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    where = rng.choice(("", "", "attention", "mlp"))
    target, said = target_or_all(anatomy, rng, lambda x: bool(_branches(anatomy.roles(x.block), where)), 0.25)
    if target is None:
        return None
    slots = {}
    if where:
        slots["where"] = say("attention", "self-attention", *SLOTS["attention"],
            unseen=("the attention branch",)) if where == "attention" else say(
            "mlp", "feed-forward", "MLP", "ffn", *SLOTS["mlp"], unseen=("feed-forward branch",))  # fmt: skip
    return layer_draft(
        "layer_scale", anatomy, target, lambda w, r: add_scales(w, r, where),
        values={"where": where or None}, slots=slots, say_target=said,
    )  # fmt: skip


LAYER_SCALE = Intent(
    name="layer_scale",
    reading="insert",
    seen=(
        "add (a |)(LayerScale|layer scale|layerscale)[ after the {where}][ (to|in) {target}]",
        "(insert|put|place) (a |)(LayerScale|layer scale)[ after the {where}][ (in|of) {target}]",
        "use (LayerScale|layer scale|layer scaling)[ after the {where}][ in {target}]",
        "~(LayerScale|layer scale)[ after the {where}][ (in|for|of) {target}]",
        "~{target}: (LayerScale|layer scale)[ after the {where}]",
        "give {target} (a |)(LayerScale|layer scale)[ after the {where}]",
        "scale the output of the {where}[ (of|in) {target}] (by|with) a learned vector",
        "scale the branch outputs[ (of|in) {target}] (by|with) (a learned vector|learned weights)",
        "add a learnable (per-channel |)scale[ after the {where}][ (to|in) {target}]",
        "(insert|add) a learned per-channel (scale|scaling)[ behind the {where}][ (of|in) {target}]",
        "apply (LayerScale|layer scale)[ to the {where}][ (of|in) {target}]",
        "extend {target} with (LayerScale|layer scale)[ after the {where}]",
        "introduce (LayerScale|layer scaling)[ after the {where}][ in {target}]",
    ),
    unseen=(
        "weight the channels of the {where} output[ (of|in) {target}] with learnable factors",
        "let a trainable vector rescale the {where} output[ (of|in) {target}]",
        "~CaiT-style layer scale[ behind the {where}][ (in|for) {target}]",
        "equip {target} with a trainable channel scale[ behind the {where}]",
        "multiply the branch outputs[ (of|in) {target}] by trainable channel weights",
    ),
    propose=_propose_scale,
    refuse=(out_of_range("layer_scale", lambda _: {}),),
    weight=0.8,
)

NORM = (SWAP_NORM, INSERT_NORM, LAYER_SCALE)
