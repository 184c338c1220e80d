"""Edits of the inner channels of convolutional blocks: of bottlenecks, inverted residuals and basic blocks."""

import random

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.conv import needs_convs
from genmad.intents.draft import Draft, Intent, layer_draft, out_of_range, target_or_all
from genmad.intents.frames import setting_frames
from genmad.intents.mlp import factor_words
from genmad.intents.phrasing import Phrases
from genmad.intents.roles import ACTIVATIONS, NORMS, BlockRoles
from genmad.intents.values import usual
from genmad.intents.writing import Number, ScriptWriter
from genmad.ir.graph import Node

WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 2048)
_BETWEEN = frozenset({*NORMS, *ACTIVATIONS, "Pad", "SqueezeExcite", "Identity", "Sigmoid", "Tanh", "HardSigmoid"})


def is_depthwise(roles: BlockRoles, node: Node) -> bool:
    channels = roles.block.types[node.inputs[0]].shape[1]
    return bool(node.attr_map["groups"] == channels == node.attr_map["out_channels"] and channels != 1)


def next_conv(roles: BlockRoles, node: Node) -> Node | None:
    """The convolution that alone reads what a node makes, through norms and activations."""
    for _ in range(8):
        users = roles.block.users[node.outputs[0]]
        if len(users) != 1 or node.outputs[0] in roles.block.outputs:
            return None
        node = roles.block.by_name[users[0][0]]
        if node.op == "Conv":
            return node
        if node.op not in _BETWEEN:
            return None
    return None


def inner_convs(roles: BlockRoles) -> tuple[Node, ...]:
    """Convolutions whose channels only another convolution sees; none where a depthwise one would be left behind."""
    found = [n for n in roles.convs if next_conv(roles, n) is not None]
    names = {n.name for n in found}
    for node in found:
        reader = next_conv(roles, node)
        if reader is not None and is_depthwise(roles, reader) and reader.name not in names:
            return ()
        if is_depthwise(roles, node) and not any(next_conv(roles, n) is node for n in found):
            return ()
    return tuple(found)


def set_widths(writer: ScriptWriter, roles: BlockRoles, width: Number) -> None:
    """A depthwise convolution follows the one in front of it when channels grow, and goes ahead when they get fewer."""
    nodes = inner_convs(roles)
    old = nodes[0].attr_map["out_channels"]
    new = width.literal if width.base == "int" else old * width.times // width.over
    for node in nodes if new > old else reversed(nodes):
        more = {"groups": width} if is_depthwise(roles, node) else {}
        writer.set(node.name, out_channels=width, **more)


def _fits(anatomy: Anatomy, layer: Layer, number: Number) -> bool:
    roles = anatomy.roles(layer.block)
    nodes = inner_convs(roles)
    if not nodes:
        return False
    widths = {n.attr_map["out_channels"] for n in nodes}
    if number.base == "old":
        return all(w * number.times % number.over == 0 for w in widths)
    return widths != {number.literal} and len(widths) == 1


def _propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    slots: dict[str, Phrases]
    values: tuple[tuple[str, object], ...]
    if rng.random() < 0.45:
        width = usual(rng, WIDTHS, 8, 1024)
        number, values, slots = Number.of(width), (("width", width),), {"width": _width_words(width)}
    else:
        number, slots, values = factor_words(rng)
    target, said = target_or_all(anatomy, rng, lambda x: _fits(anatomy, x, number), 0.15)
    if target is None:
        return None
    return layer_draft(
        "conv_width", anatomy, target, lambda w, r: set_widths(w, r, number), values=dict(values), slots=slots,
        say_target=said
    )  # fmt: skip


def _width_words(width: int) -> Phrases:
    return Phrases((f"{width}", f"{width}", f"{width} channels", f"{width} filters"), (f"{width} feature maps",))


_W = "(inner|middle|hidden|bottleneck|intermediate) (channels|width|filters)"
_SET = setting_frames("(inner width|bottleneck width|number of inner channels|middle width)", "{width}")
CONV_WIDTH = Intent(
    name="conv_width",
    reading="resize",
    seen=(
        *_SET[0],
        "{scale} the " + _W + "[ (of|in) {target}]",
        "{scale} the number of (inner|middle|hidden|bottleneck) channels[ (of|in) {target}]",
        "{scale} the width of the (inner|middle) (convolutions|convs)[ (of|in) {target}]",
        "{scale} the (bottleneck|bottlenecks|expansion)[ (of|in) {target}]",
        "~{target}: {scale} the " + _W,
        "~I (want|would like) to {scale} the " + _W + "[ (of|in) {target}]",
        "make the (inner|middle|hidden) (convolutions|convs|part)[ (of|in) {target}] {factor}",
        "make the (bottleneck|bottlenecks)[ (of|in) {target}] {factor}",
        "~(bottleneck|middle)[ (of|in) {target}] {factor}",
        "let the (bottleneck|inner convolutions)[ (of|in) {target}] be {factor}",
        "~{target}: inner channels {factor}",
        "use {width} inside[ {target}]",
        "(squeeze|expand) the (bottleneck|middle)[ (of|in) {target}] to {width}",
    ),
    unseen=(
        *_SET[1],
        "{scale} how many channels run through the middle[ of {target}]",
        "~we want to {scale} the internal channels[ (of|in) {target}]",
        "~the inside[ of {target}] should become {factor}",
        "rescale the internal convolutions[ (of|in) {target}] so that they are {factor}",
        "let {width} flow through the middle[ of {target}]",
    ),
    propose=_propose,
    refuse=(
        needs_convs("conv_width", lambda rng: {"width": _width_words(rng.choice(WIDTHS))}),
        out_of_range("conv_width", lambda rng: {"width": _width_words(rng.choice(WIDTHS))}),
    ),
    weight=1.0,
)
