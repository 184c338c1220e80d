"""Edits of convolutions: squeeze-and-excitation, kernel sizes, depthwise-separable forms."""

import random
from collections.abc import Callable

from genmad.intents.anatomy import Anatomy, Layer
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
from genmad.intents.phrasing import Phrases
from genmad.intents.roles import BlockRoles
from genmad.intents.targets import pick_target
from genmad.intents.types import Request
from genmad.intents.wordings.slots import numbered
from genmad.intents.writing import Number, ScriptWriter, edit_blocks
from genmad.ir.graph import Node


def _squeeze_place(roles: BlockRoles) -> str:
    """End of the main branch before the residual sum, else the block's output; "" unless it is an image."""
    sums = [r for r in roles.residuals if roles.block.types[r.branch].rank == 4]
    value = sums[-1].branch if sums else roles.block.outputs[0]
    kind = roles.block.types[value]
    return (
        value
        if kind.rank == 4 and isinstance(kind.shape[1], int) and roles.convs and _channels_first(roles, value)
        else ""
    )


def _channels_first(roles: BlockRoles, value: str) -> bool:
    node = roles.block.by_name.get(value)
    return node is None or node.op not in ("Linear", "LayerNorm", "RMSNorm", "Gelu")


def squeeze(writer: ScriptWriter, roles: BlockRoles, ratio: int) -> None:
    value = _squeeze_place(roles)
    new = writer.add("SqueezeExcite", value, reduced_channels=Number("channels", value, over=ratio), scale=2.0)
    writer.swap_uses(value, new)


def _width(roles: BlockRoles) -> int:
    width = roles.block.types[_squeeze_place(roles)].shape[1]
    assert isinstance(width, int)
    return width


def _propose_squeeze(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    ratio = rng.choice((2, 4, 8, 16)) if rng.random() < 0.5 else None

    def fits(layer: Layer) -> bool:
        roles = anatomy.roles(layer.block)
        return bool(_squeeze_place(roles)) and _width(roles) % (ratio or 4) == 0 and not roles.nodes("SqueezeExcite")

    target, said = target_or_all(anatomy, rng, fits, 0.25)
    if target is None:
        return None
    slots = {"ratio": ratio_phrases(ratio)} if ratio else {}
    return layer_draft(
        "squeeze_excite", anatomy, target, lambda w, r: squeeze(w, r, ratio or 4), values={"ratio": ratio},
        slots=slots, say_target=said
    )  # fmt: skip


def ratio_phrases(ratio: int) -> Phrases:
    seen = (
        f"ratio {ratio}",
        f"reduction {ratio}",
        f"a reduction ratio of {ratio}",
        f"reduction ratio {ratio}",
        f"r={ratio}",
        f"a ratio of {ratio}",
        *numbered("ratio", ratio),
    )
    return Phrases(seen, (f"a {ratio}-fold reduction", f"channels reduced by {ratio}"))


def needs_convs(intent: str, slots: Callable[[random.Random], dict[str, Phrases]]) -> Propose:
    """A CNN operation on a model without convolutions in its layers."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        target = None if anatomy.is_conv else pick_target(anatomy, rng)
        if target is None:
            return None
        words = dict(slots(rng))
        if rng.random() < 0.8:
            words["target"] = target.phrases
        return refusal_draft(intent, "not_applicable", words, exact=target.exact)

    return propose


_SE = "(squeeze-and-excite|squeeze-and-excitation|squeeze and excitation|SE|squeeze-excite)"
SQUEEZE = Intent(
    name="squeeze_excite",
    reading="insert",
    seen=(
        "add " + _SE + "[ (to|in) {target}][ with {ratio}]",
        "(insert|put) (a |)" + _SE + " (module|block|layer) (in|into) {target}[ with {ratio}]",
        "(insert|add) " + _SE + " (blocks|modules)[ (in|after|to) {target}][ with {ratio}]",
        "~{target}: (add |)" + _SE + "[, {ratio}]",
        "~" + _SE + "[ (in|for|after) {target}][, {ratio}]",
        "use " + _SE + " (attention |)[in {target} ][with {ratio}]",
        "give {target} (a |)" + _SE + " (module|block)[ with {ratio}]",
        "(extend|equip) {target} with " + _SE + "[ with {ratio}]",
        "(add|insert) channel attention <" + "squeeze-excite>[ (in|to) {target}][ with {ratio}]",
        "apply " + _SE + "[ (in|to) {target}][ with {ratio}]",
        "turn {target} into (an SE block|squeeze-and-excite blocks)[ with {ratio}]",
        "attach (an |)" + _SE + " (unit|module) to {target}[ with {ratio}]",
        "introduce " + _SE + "[ in {target}][ with {ratio}]",
    ),
    unseen=(
        "gate the channels of {target} by " + _SE + "[, {ratio}]",
        "recalibrate the channels[ (in|of) {target}] with " + _SE + "[, {ratio}]",
        "~{target} should get " + _SE + "[ with {ratio}]",
        "let {target} reweight its channels by " + _SE + "[ with {ratio}]",
        "fit " + _SE + "[ into {target}][, {ratio}]",
    ),
    propose=_propose_squeeze,
    refuse=(needs_convs("squeeze_excite", lambda _: {}), out_of_range("squeeze_excite", lambda _: {})),
    weight=1.3,
)


def _spatial(node: Node) -> bool:
    """More than one pixel, and windows that overlap (patch embeddings do not)."""
    if node.op != "Conv":
        return False
    return all(k > 1 and k > s for k, s in zip(node.attr_map["kernel_size"], node.attr_map["stride"], strict=True))


def set_kernels(writer: ScriptWriter, roles: BlockRoles, kernel: int) -> None:
    for node in roles.convs:
        if _spatial(node) and set(node.attr_map["kernel_size"]) != {kernel}:
            writer.set(node.name, kernel_size=Number.of(kernel))


def _kernel_phrases(k: int) -> Phrases:
    return Phrases((f"{k}", f"{k}x{k}", f"{k} x {k}", f"{k}"), (f"{k} by {k}", f"{k} pixels"))


def _propose_kernel(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    kernel = rng.choice((3, 5, 5, 7, 7, 9, 11, 13))
    slots = {"kernel": _kernel_phrases(kernel)}
    if rng.random() < 0.15:
        return _one_conv(anatomy, rng, kernel, slots)
    target, said = target_or_all(anatomy, rng, lambda x: any(map(_spatial, anatomy.roles(x.block).convs)), 0.0)
    if target is None or not said:
        return None
    draft = layer_draft(
        "kernel_size", anatomy, target, lambda w, r: set_kernels(w, r, kernel), values={"kernel_size": kernel},
        slots=slots
    )  # fmt: skip
    found = [n for x in target.layers for n in anatomy.roles(x.block).convs if _spatial(n)]
    return refused(draft, "already_so") if all(set(n.attr_map["kernel_size"]) == {kernel} for n in found) else draft


def _one_conv(anatomy: Anatomy, rng: random.Random, kernel: int, slots: dict[str, Phrases]) -> Draft | None:
    """One convolution of the main block or of a layer, by name."""
    convs = [p for p in anatomy.places if _spatial(p.node) and set(p.node.attr_map["kernel_size"]) != {kernel}]
    if not convs:
        return None
    place = rng.choice(convs)

    def build(writer: ScriptWriter) -> None:
        writer.at(*([place.prefix.rstrip(".")] if place.prefix else []))
        writer.set(place.node.name, kernel_size=Number.of(kernel))

    request = Request(intent="kernel_size", nodes=(place.path,), values=(("kernel_size", kernel),))
    name = Phrases((place.path, f"the convolution {place.path}", f"the conv {place.path}"), (f"`{place.path}`",))
    return Draft(request=request, slots={**slots, "target": name}, build=build, exact=True)


KERNEL = Intent(
    name="kernel_size",
    reading="resize",
    seen=(
        "set the kernel size (of|in) {target} to {kernel}",
        "(change|increase|adjust) the kernel size (of|in) {target} to {kernel}",
        "use {kernel} kernels in {target}",
        "use {kernel} convolutions in {target}",
        "use (a |)kernel size (of |){kernel} in {target}",
        "make the kernels (of|in) {target} {kernel}",
        "make the convolutions (of|in) {target} {kernel}",
        "~{target}: kernel size {kernel}",
        "~kernel size {kernel} (in|for) {target}",
        "(change|turn|convert) the convolutions (of|in) {target} (to|into) {kernel}",
        "replace the convolutions (of|in) {target} (by|with) {kernel} ones",
        "~{kernel} kernels (in|for) {target}",
        "(set|change) kernel_size={kernel} (in|for) {target}",
        "switch {target} to {kernel} kernels",
    ),
    unseen=(
        "let the convolutions (of|in) {target} look at {kernel} patches",
        "~{target} should convolve with {kernel} filters",
        "pick {kernel} filters for {target}",
        "resize the filters (of|in) {target} to {kernel}",
        "go to {kernel} filters in {target}",
    ),
    propose=_propose_kernel,
    refuse=(
        needs_convs("kernel_size", lambda rng: {"kernel": _kernel_phrases(rng.choice((3, 5, 7)))}),
        out_of_range("kernel_size", lambda rng: {"kernel": _kernel_phrases(rng.choice((3, 5, 7)))}),
    ),
    weight=1.2,
)


def _separable(node: Node) -> bool:
    return _spatial(node) and node.attr_map["groups"] == 1


def separate(writer: ScriptWriter, roles: BlockRoles) -> None:
    """The convolution becomes depthwise; a new 1x1 one after it, added first, takes over its number of channels."""
    for node in roles.convs:
        if not _separable(node):
            continue
        bias = {} if node.attr_map["bias"] else {"bias": False}
        new = writer.add(
            "Conv", node.name, out_channels=Number("channels", node.name), kernel_size=Number.of(1), **bias
        )
        writer.swap_uses(node.name, new)
        width = Number("channels", node.inputs[0])
        writer.set(node.name, out_channels=width, groups=width)


def _propose_separate(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    if rng.random() < 0.15:
        return _separate_everywhere(anatomy)
    target, said = target_or_all(anatomy, rng, lambda x: any(map(_separable, anatomy.roles(x.block).convs)), 0.0)
    if target is None or not said:
        return None
    return layer_draft("depthwise_separable", anatomy, target, separate, values={}, slots={})


def _separate_everywhere(anatomy: Anatomy) -> Draft | None:
    nodes = tuple(p.path for p in anatomy.places if _separable(p.node))
    if not nodes or anatomy.has_attention:
        return None
    request = Request(intent="depthwise_separable", nodes=nodes)
    return Draft(request=request, slots={}, build=lambda writer: edit_blocks(writer, anatomy, _separable, separate))


def _not_separable(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """Layers whose convolutions are depthwise, grouped or 1x1 already."""
    if not anatomy.is_conv:
        return None
    target = pick_target(anatomy, rng, lambda x: not any(map(_separable, anatomy.roles(x.block).convs)))
    if target is None:
        return None
    return refusal_draft("depthwise_separable", "not_applicable", {"target": target.phrases}, exact=target.exact)


_DS = "(depthwise-separable|depthwise separable|separable)"
SEPARABLE = Intent(
    name="depthwise_separable",
    reading="replace",
    seen=(
        "make the (convolutions|convs)[ (of|in) {target}] " + _DS,
        "(make|turn) {target} " + _DS,
        "use " + _DS + " convolutions[ in {target}]",
        "replace the (convolutions|convs)[ (of|in) {target}] (by|with) " + _DS + " (ones|convolutions)",
        "(convert|turn|change) the (convolutions|convs)[ (of|in) {target}] (to|into) " + _DS + " (ones|convolutions)",
        "~" + _DS + " (convolutions|convs)[ (in|for) {target}]",
        "~{target}: " + _DS + " (convolutions|convs)",
        "split the (convolutions|convs)[ (of|in) {target}] into depthwise and pointwise",
        "split the (convolutions|convs)[ (of|in) {target}] into a depthwise and a 1x1 convolution",
        "(factorize|factorise) the (convolutions|convs)[ (of|in) {target}] into depthwise and "
        "pointwise (convolutions|ones|parts)",
        "swap the (convolutions|convs)[ (of|in) {target}] for " + _DS + " ones",
        "~" + _DS + " instead of (full|standard|regular) convolutions[ in {target}]",
        "(switch|move) to " + _DS + " convolutions[ in {target}]",
    ),
    unseen=(
        "use MobileNet-style convolutions[ in {target}]",
        "break the convolutions[ (of|in) {target}] up into depthwise plus pointwise",
        "~depthwise followed by pointwise in place of the dense convolutions[ (of|in) {target}]",
        "decompose the convolutions[ (of|in) {target}] the Xception way",
        "~convolutions[ (of|in) {target}] should be depthwise + pointwise",
    ),
    propose=_propose_separate,
    refuse=(
        needs_convs("depthwise_separable", lambda _: {}),
        _not_separable,
        out_of_range("depthwise_separable", lambda _: {}),
    ),
    weight=1.1,
)

CONV = (SQUEEZE, KERNEL, SEPARABLE)
