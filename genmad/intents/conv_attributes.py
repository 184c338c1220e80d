"""Edits of single attributes of convolutions: dilation, groups, stride, bias."""

import random
from collections.abc import Mapping

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.conv import needs_convs
from genmad.intents.draft import Draft, Intent, Propose, layer_draft, out_of_range, refused, target_or_all
from genmad.intents.frames import setting_frames
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import BlockRoles
from genmad.intents.targets import COUNTS
from genmad.intents.types import Request
from genmad.intents.writing import Number, ScriptWriter
from genmad.ir.graph import Node, Place


def overlapping(node: Node) -> bool:
    """A convolution that mixes neighbours: more than one pixel, windows that overlap (patch embeddings do not)."""
    if node.op != "Conv":
        return False
    return all(k > 1 and k > s for k, s in zip(node.attr_map["kernel_size"], node.attr_map["stride"], strict=True))


def _whole(node: Node, name: str, value: int) -> bool:
    return set(node.attr_map[name]) == {value}


# dilation


def set_dilation(writer: ScriptWriter, roles: BlockRoles, dilation: int) -> None:
    for node in roles.convs:
        if overlapping(node) and not _whole(node, "dilation", dilation):
            writer.set(node.name, dilation=Number.of(dilation))


def _propose_dilation(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda x: any(map(overlapping, anatomy.roles(x.block).convs)), 0.08)
    if target is None:
        return None
    nodes = [n for x in target.layers for n in anatomy.roles(x.block).convs if overlapping(n)]
    dilated = any(not _whole(n, "dilation", 1) for n in nodes)
    dilation = rng.choice((1, 1, 2, 3, 4)) if dilated or rng.random() < 0.05 else rng.choice((2, 2, 2, 3, 4, 6, 8))
    draft = layer_draft(
        "dilation", anatomy, target, lambda w, r: set_dilation(w, r, dilation), values={"dilation": dilation},
        slots={"dilation": _dilation_words(dilation)}, say_target=said,
    )  # fmt: skip
    return refused(draft, "already_so") if all(_whole(n, "dilation", dilation) for n in nodes) else draft


def _dilation_words(dilation: int) -> Phrases:
    return Phrases((f"{dilation}", f"{dilation}", f"{dilation}x{dilation}"), (f"{dilation} by {dilation}",))


_DILATION = setting_frames("(dilation|dilation rate)", "{dilation}")
DILATION = Intent(
    name="dilation",
    reading="resize",
    seen=(
        *_DILATION[0],
        "(dilate|spread) the (convolutions|convs|kernels)[ (of|in) {target}] with (rate|factor|a rate of) {dilation}",
        "use (dilated|atrous) (convolutions|convs)[ in {target}] with (rate|dilation|a rate of) {dilation}",
        "(make|turn) the (convolutions|convs)[ (of|in) {target}] (into |)(dilated|atrous) ones with rate {dilation}",
        "~(dilated|atrous) (convolutions|convs)[ (in|for) {target}], rate {dilation}",
        "enlarge the receptive field[ of {target}] (by|with) a dilation of {dilation}",
        "space the kernel taps[ (of|in) {target}] {dilation} (pixels |)apart",
    ),
    unseen=(
        *_DILATION[1],
        "let the filters[ (of|in) {target}] skip pixels at a dilation of {dilation}",
        "widen the view[ of {target}] with (atrous|dilated) kernels of rate {dilation}",
    ),
    propose=_propose_dilation,
    refuse=(
        needs_convs("dilation", lambda rng: {"dilation": _dilation_words(rng.choice((2, 3, 4)))}),
        out_of_range("dilation", lambda rng: {"dilation": _dilation_words(rng.choice((2, 3, 4)))}),
    ),
    weight=1.0,
)


# groups


def _groupable(node: Node) -> bool:
    """Overlapping and not depthwise."""
    return overlapping(node) and node.attr_map["groups"] < node.attr_map["out_channels"]


def set_groups(writer: ScriptWriter, roles: BlockRoles, groups: int) -> None:
    for node in roles.convs:
        if _groupable(node) and node.attr_map["groups"] != groups:
            writer.set(node.name, groups=Number.of(groups))


def _propose_groups(possible: bool) -> Propose:
    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        target, said = target_or_all(anatomy, rng, lambda x: any(map(_groupable, anatomy.roles(x.block).convs)), 0.08)
        if target is None:
            return None
        found = [(anatomy.roles(x.block), n) for x in target.layers for n in anatomy.roles(x.block).convs]
        widths = {w for r, n in found if _groupable(n) for w in (n.attr_map["out_channels"], _channels(r, n))}
        menu = (2, 2, 4, 4, 8, 8, 16, 32, 64) if possible else (3, 5, 6, 7, 9, 10, 11, 12, 13)
        pool = [g for g in menu if all(w % g == 0 and g < w for w in widths) is possible]
        if not possible:
            first = next((r, n) for r, n in found if _groupable(n))
            pool = [g for g in pool if first[1].attr_map["out_channels"] % g or _channels(*first) % g]
        if not pool:
            return None
        groups = rng.choice(pool)
        draft = layer_draft(
            "conv_groups", anatomy, target, lambda w, r: set_groups(w, r, groups), values={"groups": groups},
            slots={"groups": _group_words(groups)}, say_target=said, refusal="" if possible else "not_divisible",
        )  # fmt: skip
        same = all(n.attr_map["groups"] == groups for _, n in found if _groupable(n))
        return refused(draft, "already_so") if same else draft

    return propose


def _channels(roles: BlockRoles, node: Node) -> int:
    width = roles.block.types[node.inputs[0]].shape[1]
    assert isinstance(width, int)
    return width


def _group_words(groups: int) -> Phrases:
    word = COUNTS[groups] if groups < len(COUNTS) else str(groups)
    return Phrases((f"{groups} groups", f"{groups} groups", f"{word} groups"), (f"{groups} separate groups",))


GROUPS = Intent(
    name="conv_groups",
    reading="resize",
    seen=(
        "use {groups} in the (convolutions|convs)[ (of|in) {target}]",
        "(split|divide|partition) the (convolutions|convs)[ (of|in) {target}] into {groups}",
        "(make|turn) the (convolutions|convs)[ (of|in) {target}] (into |)grouped ones with {groups}",
        "(make|turn) the (convolutions|convs)[ (of|in) {target}] (into |)grouped, {groups}",
        "use (grouped|group) (convolutions|convs)[ in {target}] with {groups}",
        "~(grouped|group) (convolutions|convs) with {groups}[ (in|for) {target}]",
        "~{target}: convolutions with {groups}",
        "~{groups} (in|for) the (convolutions|convs)[ of {target}]",
        "~{groups} per convolution[ in {target}]",
        "set the number of (conv|convolution) groups[ (of|in) {target}] to {groups}",
        "set the groups of the (convolutions|convs)[ (of|in) {target}] to {groups}",
        "set the cardinality[ (of|in) {target}] to {groups}",
        "use a cardinality of {groups}[ in {target}]",
        "(convert|change|switch) the (convolutions|convs)[ (of|in) {target}] to {groups}",
        "let the (convolutions|convs)[ (of|in) {target}] (use|have|work in) {groups}",
        "group the channels of the (convolutions|convs)[ (of|in) {target}] into {groups}",
        "~I want ResNeXt-style (convolutions|convs) with {groups}[ in {target}]",
        "~the (convolutions|convs)[ (of|in) {target}] should (have|use) {groups}",
        "~(could|can) you use {groups} in the (convolutions|convs)[ of {target}]?",
        "replace the (dense |full |)(convolutions|convs)[ (of|in) {target}] (by|with) grouped ones (of|with) {groups}",
        "give the (convolutions|convs)[ (of|in) {target}] {groups}",
        "build the (convolutions|convs)[ (of|in) {target}] with {groups}",
    ),
    unseen=(
        "break the (convolutions|convs)[ (of|in) {target}] up into {groups}",
        "let channels only mix within {groups} in the convolutions[ of {target}]",
        "~the (convolutions|convs)[ (of|in) {target}] need {groups}",
        "go the ResNeXt way[ in {target}]: {groups}",
        "arrange the filters[ (of|in) {target}] in {groups}",
        "organise the (convolutions|convs)[ (of|in) {target}] as {groups}",
    ),
    propose=_propose_groups(True),
    refuse=(
        _propose_groups(False),
        _propose_groups(False),
        needs_convs("conv_groups", lambda rng: {"groups": _group_words(rng.choice((2, 4, 8)))}),
        out_of_range("conv_groups", lambda rng: {"groups": _group_words(rng.choice((2, 4, 8)))}),
    ),
    weight=1.0,
)


# stride


def strided(node: Node) -> bool:
    return node.op in ("Conv", "MaxPool", "AveragePool") and max(node.attr_map["stride"]) > 1


def set_strides(writer: ScriptWriter, roles: BlockRoles, stride: int) -> None:
    """The stride of each strided op; of two parallel ones, the sum that they end in reads one side meanwhile."""
    nodes = [n for n in roles.block.nodes if strided(n)]
    if len(nodes) == 1:
        writer.set(nodes[0].name, stride=Number.of(stride))
        return
    add = roles.residuals[0] if len(roles.residuals) == 1 else None
    join = roles.block.by_name[add.node] if add else next(n for n in roles.nodes("Add"))
    kept = join.inputs[1]
    writer.rewire(join.name, 1, join.inputs[0])
    for node in nodes:
        writer.set(node.name, stride=Number.of(stride))
    writer.rewire(join.name, 1, kept)


def _downsamples(roles: BlockRoles) -> bool:
    count = sum(map(strided, roles.block.nodes))
    return count == 1 or (count == 2 and len(roles.nodes("Add")) == 1)


def _propose_stride(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    stride = 1 if rng.random() < 0.75 else rng.choice((2, 3, 4))
    slots = {"stride": _stride_words(stride)} if stride > 1 or rng.random() < 0.6 else {"flat": _FLAT}
    target, _ = target_or_all(anatomy, rng, lambda x: _downsamples(anatomy.roles(x.block)), 0.0)
    if target is None or rng.random() < 0.4:
        return _one_stride(anatomy, rng, stride, slots)
    layers = target.layers
    found = [n for x in layers for n in anatomy.graph.block_map[x.block].nodes if strided(n)]
    if any(_whole(n, "stride", stride) for n in found):
        return None
    return layer_draft(
        "conv_stride", anatomy, target, lambda w, r: set_strides(w, r, stride), values={"stride": stride}, slots=slots
    )  # fmt: skip


def _one_stride(anatomy: Anatomy, rng: random.Random, stride: int, slots: dict[str, Phrases]) -> Draft | None:
    """The stride of one named convolution or pool."""
    places = [p for p in anatomy.places if strided(p.node) and not _whole(p.node, "stride", stride)]
    if not places:
        return None
    place = rng.choice(places)

    def build(writer: ScriptWriter) -> None:
        writer.at(*([place.prefix.rstrip(".")] if place.prefix else []))
        writer.set(place.node.name, stride=Number.of(stride))

    request = Request(intent="conv_stride", nodes=(place.path,), values=(("stride", stride),))
    return Draft(request=request, slots={**slots, "target": node_words(place)}, build=build, exact=True)


def node_words(place: Place) -> Phrases:
    """Ways to name one convolution or pool."""
    noun = "convolution" if place.node.op == "Conv" else "pooling"
    return Phrases((place.path, place.path, f"the {noun} {place.path}"), (f"`{place.path}`",))


def _stride_words(stride: int) -> Phrases:
    return Phrases((f"{stride}", f"{stride}", f"{stride}x{stride}"), (f"{stride} pixels",))


_FLAT = say(
    "keep the resolution", "do not downsample", "preserve the resolution", "do without downsampling",
    "keep the spatial size", unseen=("leave the feature maps at full size", "avoid any loss of resolution"),
)  # fmt: skip
_STRIDE = setting_frames("stride", "{stride}")


def _stride_slots(rng: random.Random) -> dict[str, Phrases]:
    return {"stride": _stride_words(rng.choice((1, 2)))}


STRIDE = Intent(
    name="conv_stride",
    reading="resize",
    seen=(
        *_STRIDE[0],
        "(run|apply) {target} with stride {stride}",
        "{flat} in {target}",
        "let {target} {flat}",
        "make {target} {flat}",
        "~{target} should {flat}",
        "~{target}: {flat}",
        "change {target} so that you {flat}",
        "(remove|undo) the stride of {target}: {flat}",
    ),
    unseen=(
        *_STRIDE[1],
        "have {target} {flat}",
        "~please see to it that {target} {flat}",
        "step by {stride} in {target}",
    ),
    propose=_propose_stride,
    refuse=(needs_convs("conv_stride", _stride_slots), out_of_range("conv_stride", _stride_slots)),
    weight=0.9,
)


# bias

_KINDS = {
    "Conv": say(
        "the convolutions", "the convs", "the conv layers", "all convolutions", unseen=("the convolution layers",)
    ),
    "Linear": say(
        "the linear layers", "the projections", "the dense layers", "all linear layers", "the fully connected layers",
        unseen=("the linear maps", "the matrix multiplications"),
    ),
}  # fmt: skip


def set_bias(writer: ScriptWriter, roles: BlockRoles, op: str, bias: bool) -> None:
    for node in roles.nodes(op):
        if node.attr_map["bias"] is not bias:
            writer.set(node.name, bias=bias)


def _propose_bias(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    bias, op = rng.random() < 0.4, rng.choice(list(_KINDS))

    def fits(layer: Layer) -> bool:
        return bool(anatomy.roles(layer.block).nodes(op))

    target, said = target_or_all(anatomy, rng, fits, 0.15)
    if target is None:
        return None
    nodes = [n for x in target.layers for n in anatomy.roles(x.block).nodes(op)]
    same = all(n.attr_map["bias"] is bias for n in nodes)
    if same and rng.random() < 0.85:
        return None
    draft = layer_draft(
        "toggle_bias", anatomy, target, lambda w, r: set_bias(w, r, op, bias), values={"op": op, "bias": bias},
        slots={"kind": _KINDS[op], **({"bias": _A_BIAS} if bias else {"no_bias": _BIAS})}, say_target=said,
    )  # fmt: skip
    return refused(draft, "already_so") if same else draft


_BIAS = say("bias", "biases", "bias terms", "bias vector", unseen=("additive offsets", "bias parameters"))


_A_BIAS = say("a bias", "bias terms", "a bias vector", "biases", "bias", unseen=("an additive offset",))
_NO_CONV_BIAS: Mapping[str, Phrases] = {"kind": _KINDS["Conv"], "no_bias": _BIAS}


BIAS = Intent(
    name="toggle_bias",
    reading="convert",
    seen=(
        "remove the {no_bias} (of|from) {kind}[ (of|in) {target}]",
        "(drop|delete) the {no_bias} (of|from|in) {kind}[ (of|in) {target}]",
        "use no {no_bias} in {kind}[ of {target}]",
        "get rid of the {no_bias} in {kind}[ of {target}]",
        "make {kind}[ (of|in) {target}] work without {no_bias}",
        "~no {no_bias} in {kind}[ of {target}]",
        "~{kind}[ (of|in) {target}] without {no_bias}",
        "(switch|turn) off the {no_bias} of {kind}[ (of|in) {target}]",
        "~{target}: no {no_bias} in {kind}",
        "build {kind}[ (of|in) {target}] without {no_bias}",
        "(strip|free) {kind}[ (of|in) {target}] (of|from) their {no_bias}",
        "take the {no_bias} out of {kind}[ (of|in) {target}]",
        "add {bias} to {kind}[ (of|in) {target}]",
        "use {bias} in {kind}[ of {target}]",
        "give {kind}[ (of|in) {target}] {bias}",
        "~{kind}[ (of|in) {target}] with {bias}",
        "~{target}: {bias} in {kind}",
        "(switch|turn) on the {bias} of {kind}[ (of|in) {target}]",
        "let {kind}[ (of|in) {target}] have {bias}",
        "(equip|extend) {kind}[ (of|in) {target}] with {bias}",
        "put {bias} (into|in) {kind}[ of {target}]",
        "introduce {bias} in {kind}[ of {target}]",
    ),
    unseen=(
        "dispense with the {no_bias} in {kind}[ of {target}]",
        "~{kind}[ (of|in) {target}] should be purely linear, no {no_bias}",
        "~the {no_bias} of {kind}[ (of|in) {target}] can go",
        "eliminate the {no_bias} of {kind}[ (of|in) {target}]",
        "~{kind}[ (of|in) {target}] should have {bias}",
        "supply {kind}[ (of|in) {target}] with {bias}",
        "~we want {bias} in {kind}[ of {target}]",
    ),
    propose=_propose_bias,
    refuse=(
        needs_convs("toggle_bias", lambda _: dict(_NO_CONV_BIAS)),
        out_of_range("toggle_bias", lambda _: {"kind": _KINDS["Linear"], "no_bias": _BIAS}),
    ),
    weight=1.0,
)

CONV_ATTRIBUTES = (DILATION, GROUPS, STRIDE, BIAS)
