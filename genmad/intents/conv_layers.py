"""Edits that put operations into convolutional models or take them out: convolutions, SE, attention, resizing."""

import random
from collections.abc import Mapping

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.conv import needs_convs, ratio_phrases
from genmad.intents.conv_attributes import node_words
from genmad.intents.draft import (
    Draft,
    Intent,
    Propose,
    layer_draft,
    out_of_range,
    refusal_draft,
    refused,
    target_or_all,
)
from genmad.intents.frames import exchange_frames, removal_frames
from genmad.intents.heads import heads_phrases
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import BlockRoles
from genmad.intents.targets import pick_target
from genmad.intents.types import Request
from genmad.intents.writing import Number, ScriptWriter, edit_blocks
from genmad.ir.graph import Node, producer

# one more convolution


def _image_out(roles: BlockRoles) -> str:
    """The block's output where it is an image with channels first, else ""."""
    value = roles.block.outputs[0]
    kind, node = roles.block.types[value], roles.block.by_name.get(producer(value))
    if kind.rank != 4 or not isinstance(kind.shape[1], int) or not roles.convs or node is None or node.is_call:
        return ""
    return "" if node.op in ("Linear", "LayerNorm", "RMSNorm", "Gelu") else value


def append_conv(writer: ScriptWriter, roles: BlockRoles, kernel: int) -> None:
    """A convolution of the block's output, added to it, so that with zero weights nothing changes."""
    value = _image_out(roles)
    padding = {"padding": Number.of(kernel // 2)} if kernel > 1 else {}
    conv = writer.add(
        "Conv", value, out_channels=Number("channels", value), kernel_size=Number.of(kernel), **padding
    )  # fmt: skip
    writer.swap_uses(value, writer.add("Add", value, conv))


_KERNELS = {
    1: say(
        "a 1x1 convolution", "a pointwise convolution", "a 1x1 conv", "a 1 x 1 convolution", "a pointwise conv",
        "a point-wise convolution", unseen=("a convolution over single pixels", "a network-in-network layer"),
    ),
    3: say("a 3x3 convolution", "a 3x3 conv", "a 3 x 3 convolution", unseen=("a three by three convolution",)),
    5: say("a 5x5 convolution", "a 5x5 conv", "a 5 x 5 convolution", unseen=("a five by five convolution",)),
    7: say("a 7x7 convolution", "a 7x7 conv", "a 7 x 7 convolution", unseen=("a seven by seven convolution",)),
}  # fmt: skip


def _propose_insert(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    kernel = rng.choices((1, 3, 5, 7), (6, 4, 1, 1))[0]
    target, said = target_or_all(anatomy, rng, lambda x: bool(_image_out(anatomy.roles(x.block))), 0.0)
    if target is None or not said:
        return None
    return layer_draft(
        "insert_conv", anatomy, target, lambda w, r: append_conv(w, r, kernel), values={"kernel_size": kernel},
        slots={"conv": _KERNELS[kernel]},
    )  # fmt: skip


INSERT_CONV = Intent(
    name="insert_conv",
    reading="insert",
    seen=(
        "(add|insert|put) {conv} (after|behind|at the end of) {target}",
        "(append|attach) {conv} to {target}",
        "(follow|end) {target} (by|with) {conv}",
        "let {conv} (follow|come after) {target}",
        "~{conv} (after|behind|at the end of) {target}",
        "~{target}: add {conv} (at the end|behind it)",
        "(extend|augment) {target} (by|with) {conv}",
        "(place|add) {conv} (right |directly |)(after|behind) {target}",
        "give {target} {conv} at (its|the) end",
        "~I (want|need|would like) {conv} (after|behind) {target}",
        "~(could|can) you (add|put) {conv} (after|behind) {target}?",
        "~(after|behind) {target} there should be {conv}",
        "introduce {conv} (after|at the end of) {target}",
        "have {target} end (in|with) {conv}",
        "put {conv} on top of {target}",
        "(add|insert) {conv} with a skip (after|behind) {target}",
        "(add|insert) a residual branch with {conv} (after|behind) {target}",
        "process the output of {target} (by|with) {conv}",
        "~{conv} on the output of {target}",
        "send the output of {target} through {conv}",
        "stack {conv} on {target}",
    ),
    unseen=(
        "refine what comes out of {target} with {conv}",
        "~{target} could use {conv} at the end",
        "pass the result of {target} on through {conv}",
        "finish {target} off with {conv}",
        "slot {conv} in where {target} ends",
        "~{conv} belongs (after|behind) {target}",
    ),
    propose=_propose_insert,
    refuse=(
        needs_convs("insert_conv", lambda _: {"conv": _KERNELS[3]}),
        out_of_range("insert_conv", lambda _: {"conv": _KERNELS[1]}),
    ),
    weight=1.0,
)

# self-attention between pixels


def attend(writer: ScriptWriter, roles: BlockRoles, heads: int) -> None:
    """Self-attention over the pixels of the block's output, added to it."""
    value = _image_out(roles)
    new = writer.add("SpatialAttention", value, num_heads=Number.of(heads))
    writer.swap_uses(value, writer.add("Add", value, new))


def _out_width(roles: BlockRoles) -> int:
    value = _image_out(roles)
    width = roles.block.types[value].shape[1] if value else 0
    return width if isinstance(width, int) else 0


def _propose_attention(possible: bool) -> Propose:
    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        heads = rng.choice((1, 2, 4, 8, 4)) if rng.random() < 0.6 or not possible else None
        if not possible:
            heads = rng.choice((3, 5, 7, 9, 11, 13))

        def fits(layer: Layer) -> bool:
            width = _out_width(anatomy.roles(layer.block))
            return bool(width) and (width % (heads or DEFAULT_HEADS) == 0) is possible

        target, said = target_or_all(anatomy, rng, fits, 0.06)
        if target is None:
            return None
        slots = {"heads": heads_phrases(heads)} if heads else {}
        return layer_draft(
            "conv_attention", anatomy, target, lambda w, r: attend(w, r, heads or DEFAULT_HEADS),
            values={"num_heads": heads}, slots=slots, say_target=said, refusal="" if possible else "not_divisible",
        )  # fmt: skip

    return propose


DEFAULT_HEADS = 1
_SA = "(self-attention|self attention|attention|spatial attention|a self-attention block|non-local attention)"
CONV_ATTENTION = Intent(
    name="conv_attention",
    reading="branch",
    seen=(
        "add " + _SA + "[ (to|in|after) {target}][ with {heads}]",
        "(insert|put) " + _SA + "[ (in|into|after|behind) {target}][ with {heads}]",
        "(equip|extend|augment) {target} with " + _SA + "[ with {heads}]",
        "give {target} " + _SA + "[ with {heads}]",
        "~{target}: (add |)" + _SA + "[, {heads}]",
        "~" + _SA + "[ (in|for|after) {target}][, {heads}]",
        "use " + _SA + "[ in {target}][ with {heads}]",
        "let the pixels[ (of|in) {target}] attend to each other[ with {heads}]",
        "add attention (between|over) (the pixels|positions|all pixels)[ (of|in) {target}][ with {heads}]",
        "add a self-attention (layer|branch|module)[ (after|to|in) {target}][ with {heads}]",
        "add a non-local (block|layer)[ (after|to|in) {target}][ with {heads}]",
        "(attach|append) " + _SA + " to {target}[ with {heads}]",
        "follow {target} (by|with) " + _SA + "[ with {heads}]",
        "introduce " + _SA + "[ in {target}][ with {heads}]",
        "~I (want|need|would like) " + _SA + "[ (in|after) {target}][ with {heads}]",
        "~(could|can) you add " + _SA + "[ (to|after) {target}][ with {heads}]?",
        "combine the convolutions[ (of|in) {target}] with " + _SA + "[ with {heads}]",
        "(place|have) " + _SA + " at the end of {target}[ with {heads}]",
        "mix in " + _SA + "[ (in|after) {target}][, {heads}]",
        "~{target} should also have " + _SA + "[ with {heads}]",
        "bring " + _SA + " into {target}[ with {heads}]",
    ),
    unseen=(
        "let every pixel[ (of|in) {target}] look at all others[ with {heads}]",
        "fit " + _SA + "[ into {target}][, {heads}]",
        "~{target} could use " + _SA + "[, {heads}]",
        "mount " + _SA + "[ behind {target}][ with {heads}]",
        "complement the convolutions[ (of|in) {target}] by global attention over the image[ with {heads}]",
        "sprinkle " + _SA + "[ into {target}][ with {heads}]",
    ),
    propose=_propose_attention(True),
    refuse=(_propose_attention(False), out_of_range("conv_attention", lambda _: {})),
    weight=1.0,
)

# squeeze-and-excitation out and of another size

_GATES = ("Sigmoid", "HardSigmoid")


def gates(roles: BlockRoles) -> tuple[Node, ...]:
    """Squeeze-and-excite nodes, and products with a gate computed from the pooled other factor."""
    return tuple(n for n in roles.block.nodes if n.op == "SqueezeExcite" or (n.op == "Mul" and _trunk(roles, n)))


def _trunk(roles: BlockRoles, product: Node) -> str:
    """What a product gates by squeeze-and-excitation in primitive ops; "" where it does not."""
    for slot, value in enumerate(product.inputs):
        if roles.block.by_name.get(producer(value)) is None or roles.block.by_name[producer(value)].op not in _GATES:
            continue
        other, here = product.inputs[1 - slot], value
        for _ in range(8):
            node = roles.block.by_name.get(producer(here))
            if node is None or not node.inputs:
                break
            if node.op in ("GlobalAveragePool", "AdaptiveAveragePool", "ReduceMean") and node.inputs[0] == other:
                return other
            here = node.inputs[0]
    return ""


def ungate(writer: ScriptWriter, roles: BlockRoles) -> None:
    for node in gates(roles):
        if node.op == "SqueezeExcite":
            writer.remove(node.name)
        else:
            writer.swap_uses(node.outputs[0], _trunk(roles, node))


def _propose_ungate(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda x: bool(gates(anatomy.roles(x.block))), 0.2)
    if target is None:
        return None
    return layer_draft("remove_squeeze_excite", anatomy, target, ungate, values={}, slots={}, say_target=said)


def _no_gates(intent: str, slots: Mapping[str, Phrases]) -> Propose:
    """A model without squeeze-and-excitation: there is nothing to take out or to change."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        if any(gates(anatomy.roles(x.block)) for x in anatomy.layers):
            return None
        target = pick_target(anatomy, rng)
        words = {**slots, **({"target": target.phrases} if target is not None and rng.random() < 0.7 else {})}
        return refusal_draft(intent, "no_such_target", words, exact=bool(target and target.exact))

    return propose


_SE = "(squeeze-and-excite|squeeze-and-excitation|squeeze and excitation|SE|squeeze-excite|the SE blocks|the SE module)"
_UNGATE = removal_frames(_SE)
REMOVE_SE = Intent(
    name="remove_squeeze_excite",
    reading="remove",
    seen=(
        *_UNGATE[0],
        "remove the channel attention <squeeze-and-excite>[ (from|in) {target}]",
        "do not gate the channels[ (of|in) {target}] any more <no SE>",
    ),
    unseen=(*_UNGATE[1], "stop recalibrating the channels[ (of|in) {target}] <SE>"),
    propose=_propose_ungate,
    refuse=(_no_gates("remove_squeeze_excite", {}), out_of_range("remove_squeeze_excite", lambda _: {})),
    weight=0.7,
)


def set_ratio(writer: ScriptWriter, roles: BlockRoles, ratio: int) -> None:
    for node in roles.nodes("SqueezeExcite"):
        if node.attr_map["reduced_channels"] != _reduced(roles, node, ratio):
            writer.set(node.name, reduced_channels=Number("channels", node.inputs[0], over=ratio))


def _reduced(roles: BlockRoles, node: Node, ratio: int) -> int:
    width = roles.block.types[node.inputs[0]].shape[1]
    assert isinstance(width, int)
    return width // ratio if width % ratio == 0 else 0


def _propose_ratio(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    ratio = rng.choice((2, 4, 8, 16))

    def fits(layer: Layer) -> bool:
        roles = anatomy.roles(layer.block)
        found = roles.nodes("SqueezeExcite")
        return bool(found) and all(_reduced(roles, n, ratio) for n in found)

    target, said = target_or_all(anatomy, rng, fits, 0.2)
    if target is None:
        return None
    draft = layer_draft(
        "se_ratio", anatomy, target, lambda w, r: set_ratio(w, r, ratio), values={"ratio": ratio},
        slots={"ratio": ratio_phrases(ratio)}, say_target=said,
    )  # fmt: skip
    same = all(
        n.attr_map["reduced_channels"] == _reduced(r, n, ratio)
        for x in target.layers for r in (anatomy.roles(x.block),) for n in r.nodes("SqueezeExcite")
    )  # fmt: skip
    return refused(draft, "already_so") if same else draft


_GATE = "(squeeze-and-excite|squeeze-and-excitation|SE|squeeze-excite|SE block|SE module)"
SE_RATIO = Intent(
    name="se_ratio",
    reading="resize",
    seen=(
        "(set|change) the " + _GATE + "[ (of|in) {target}] to {ratio}",
        "use {ratio} in the " + _GATE + "[ of {target}]",
        "use {ratio} for the existing " + _GATE + "[ in {target}]",
        "let the " + _GATE + "[ (of|in) {target}] (use|have) {ratio}",
        "give the " + _GATE + "[ (of|in) {target}] {ratio}",
        "~" + _GATE + "[ (of|in) {target}]: {ratio}",
        "~{target}: change the " + _GATE + " to {ratio}",
        "(switch|move) the " + _GATE + "[ (of|in) {target}] to {ratio}",
        "resize the " + _GATE + "[ (of|in) {target}] to {ratio}",
        "(run|configure) the " + _GATE + "[ (of|in) {target}] with {ratio}",
        "adjust the " + _GATE + "[ (of|in) {target}] to {ratio}",
        "make the " + _GATE + "[ (of|in) {target}] work with {ratio}",
        "~the " + _GATE + "[ (of|in) {target}] should have {ratio}",
        "~I want the " + _GATE + "[ (of|in) {target}] with {ratio}",
        "~(could|can) you change the " + _GATE + "[ (of|in) {target}] to {ratio}?",
        "(squeeze|reduce) the channels in the " + _GATE + "[ of {target}] with {ratio}",
        "have {ratio} in the " + _GATE + "[ of {target}]",
        "modify the " + _GATE + "[ (of|in) {target}], {ratio}",
        "set the squeeze of the " + _GATE + "[ (of|in) {target}] to {ratio}",
        "rebuild the " + _GATE + "[ (of|in) {target}] with {ratio}",
    ),
    unseen=(
        "~the " + _GATE + "[ (of|in) {target}] needs {ratio}",
        "pick {ratio} for the bottleneck of the " + _GATE + "[ in {target}]",
        "alter the " + _GATE + "[ (of|in) {target}] so that it has {ratio}",
        "bring the " + _GATE + "[ (of|in) {target}] to {ratio}",
        "go for {ratio} in the present " + _GATE + "[ of {target}]",
    ),
    propose=_propose_ratio,
    refuse=(
        _no_gates("se_ratio", {"ratio": ratio_phrases(8)}),
        out_of_range("se_ratio", lambda _: {"ratio": ratio_phrases(8)}),
    ),
    weight=0.5,
)

# interpolation

MODES = {
    "nearest": say(
        "nearest", "nearest-neighbour", "nearest neighbor", "nearest neighbour", "nearest-neighbor",
        unseen=("pixel-repeating",),
    ),
    "bilinear": say("bilinear", "bi-linear", "linear", unseen=("doubly linear",)),
    "bicubic": say("bicubic", "cubic", "bi-cubic", unseen=("cubic-spline",)),
}  # fmt: skip


def set_mode(writer: ScriptWriter, roles: BlockRoles, mode: str) -> None:
    for node in roles.nodes("Resize"):
        if node.attr_map["mode"] != mode:
            flat = {"align_corners": False} if mode == "nearest" and node.attr_map["align_corners"] else {}
            writer.set(node.name, mode=mode, **flat)


def _propose_mode(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    places = [p for p in anatomy.places if p.node.op == "Resize" and p.node.types[0].rank == 4]
    if not places:
        return None
    mode = rng.choice(list(MODES))
    slots = {"mode": MODES[mode]}
    values = (("mode", mode),)
    if rng.random() < 0.2:
        place = rng.choice(places)
        if place.node.attr_map["mode"] == mode or place.node.attr_map["align_corners"]:
            return None

        def build_one(writer: ScriptWriter) -> None:
            writer.at(*([place.prefix.rstrip(".")] if place.prefix else []))
            writer.set(place.node.name, mode=mode)

        request = Request(intent="upsampling_mode", nodes=(place.path,), values=values)
        return Draft(request=request, slots={**slots, "target": node_words(place)}, build=build_one, exact=True)
    nodes = tuple(p.path for p in places)
    same = all(p.node.attr_map["mode"] == mode for p in places)

    def touches(node: Node) -> bool:
        return node.op == "Resize" and node.attr_map["mode"] != mode

    def build(writer: ScriptWriter) -> None:
        edit_blocks(writer, anatomy, touches, lambda w, r: set_mode(w, r, mode))

    request = Request(intent="upsampling_mode", nodes=nodes, values=values, refusal="already_so" if same else "")
    return Draft(request=request, slots=slots, build=None if same else build)


def _no_resize(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    if any(n.op in ("Resize", "ConvTranspose", "TorchCall") for b in anatomy.graph.all_blocks for n in b.nodes):
        return None
    return refusal_draft("upsampling_mode", "not_applicable", {"mode": MODES[rng.choice(list(MODES))]})


_MODE = exchange_frames(
    "the (present |current |)(upsampling|interpolation|resizing)", "{mode} (upsampling|interpolation)"
)
UPSAMPLING = Intent(
    name="upsampling_mode",
    reading="convert",
    seen=(
        *_MODE[0],
        "use {mode} (upsampling|interpolation|resizing)[ in {target}]",
        "(upsample|interpolate|resize)[ {target}] with {mode} interpolation",
        "(set|change) the (upsampling|interpolation) (mode|method)[ (of|in) {target}] to {mode}",
        "~{mode} (upsampling|interpolation)[ (in|for) {target}]",
        "make the (upsampling|interpolation|resizing)[ (of|in) {target}] {mode}",
        "(switch|move) to {mode} (upsampling|interpolation)[ in {target}]",
        "scale feature maps up by {mode} interpolation[ in {target}]",
    ),
    unseen=(
        *_MODE[1],
        "enlarge feature maps the {mode} way[ in {target}]",
        "go for {mode} when upscaling[ in {target}]",
    ),
    propose=_propose_mode,
    refuse=(_no_resize,),
    weight=0.7,
)

CONV_LAYERS = (INSERT_CONV, CONV_ATTENTION, REMOVE_SE, SE_RATIO, UPSAMPLING)
