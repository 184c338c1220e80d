"""Edits of attention: local branches, windows, caps, heads, and long convolutions in its place."""

import random
from collections.abc import Mapping
from dataclasses import replace

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
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import AttentionRole, BlockRoles
from genmad.intents.targets import pick_target
from genmad.intents.values import number_phrases, usual, window_phrases
from genmad.intents.wordings.slots import numbered
from genmad.intents.writing import Number, ScriptWriter, edit_layers

DEFAULT_WINDOW = 128
DEFAULT_KERNEL = 128
WINDOWS = (4, 8, 16, 32, 48, 64, 96, 100, 128, 192, 200, 256, 300, 384, 512, 1024, 2048, 4096)
CAPS = (10, 15, 20, 25, 30, 40, 50, 64, 100)


def query_width(roles: BlockRoles, role: AttentionRole) -> int | None:
    """Channels of all query heads together; None where it is symbolic."""
    node = roles.block.by_name[role.node]
    kind = roles.block.types[node.inputs[0]]
    width = kind.shape[-1] if kind.rank == 3 else kind.shape[1] * kind.shape[-1]
    return width if isinstance(width, int) else None


def own_attention(anatomy: Anatomy, layer: Layer) -> AttentionRole | None:
    return anatomy.roles(layer.block).own


def _attrs(roles: BlockRoles, role: AttentionRole) -> Mapping[str, object]:
    return roles.block.by_name[role.node].attr_map


def branch_fits(anatomy: Anatomy, layer: Layer) -> bool:
    """Whether a second attention can read what the layer's own reads and end where it ends."""
    roles, role = anatomy.roles(layer.block), own_attention(anatomy, layer)
    if role is None or roles.block.types[role.source].rank != 3 or roles.block.types[role.out].rank != 3:
        return False
    width = query_width(roles, role)
    return width is not None and (not role.fused or roles.block.types[role.source].shape[-1] == width)


def add_branch(writer: ScriptWriter, roles: BlockRoles, window: int) -> None:
    role = roles.own
    assert role is not None
    source, types = role.source, roles.block.types
    like = source if types[source].shape[-1] == query_width(roles, role) else role.q
    attrs = _attrs(roles, role)
    q, k, v = (writer.add("Linear", source, out_features=Number("channels", like)) for _ in range(3))
    causal = {"causal": True} if attrs["causal"] else {}
    mixed = writer.add("Attention", q, k, v, num_heads=Number("like", role.node), window=Number.of(window), **causal)
    out = writer.add("Linear", mixed, out_features=Number("channels", role.out))
    writer.swap_uses(role.out, writer.add("Add", role.out, out))


def _window(rng: random.Random, said: float = 0.6) -> tuple[int | None, dict[str, Phrases]]:
    if rng.random() >= said:
        return None, {}
    window = usual(rng, WINDOWS, 2, 600)
    return window, {"window": window_phrases(window)}


def _propose_branch(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda layer: branch_fits(anatomy, layer), 0.06)
    if target is None:
        return None
    window, slots = _window(rng, 0.45)
    width = window or DEFAULT_WINDOW
    draft = layer_draft(
        "local_attention_branch", anatomy, target, lambda w, r: add_branch(w, r, width),
        values={"window": window}, slots=slots, say_target=said,
    )  # fmt: skip
    return replace(
        draft, other=lambda writer: edit_layers(writer, anatomy, target.layers, lambda w, r: _set_window(w, r, width))
    )


def _no_attention(intent: str, values: str = "") -> Propose:
    """A refusal where the model has no attention at all."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        target = None if anatomy.has_attention else pick_target(anatomy, rng)
        if target is None:
            return None
        slots = {"target": target.phrases, **_extra(values, rng)}
        return refusal_draft(intent, "not_applicable", slots, exact=target.exact)

    return propose


def _extra(values: str, rng: random.Random) -> dict[str, Phrases]:
    if values == "window":
        return _window(rng)[1]
    if values == "cap":
        return {"cap": say(str(rng.choice(CAPS)))}
    if values in ("heads", "kv"):
        return {"heads": number_phrases(rng.choice((1, 2, 4, 8, 12, 16)), "heads" if values == "heads" else "kv heads")}
    return {"kernel": say(str(rng.choice((7, 31, 64, 128))))} if values == "kernel" and rng.random() < 0.5 else {}


LOCAL_BRANCH = Intent(
    name="local_attention_branch",
    reading="branch",
    seen=(
        "add local attention[ (to|in) {target}][ with {window}]",
        "add local attention[ (to|in) {target}][ <{window}>]",
        "add (a |)(local|windowed|sliding-window|sliding window) attention branch[ (to|in) {target}][ with {window}]",
        "add (a parallel|a second|an extra|an additional) (local|windowed) attention[ (to|in) {target}][, {window}]",
        "(put|place) a (local|windowed|sliding window) attention (branch|path) beside the "
        "(existing |own |)attention (of|in) {target}[ with {window}]",
        "(insert|attach) a (local|windowed) attention branch (in parallel to|next to) the "
        "attention of {target}[ with {window}]",
        "(insert|attach) local attention as a (parallel|side) branch (to|in) {target}[ with {window}]",
        "~{target}: add local attention[, {window}]",
        "give {target} (an extra|an additional|a parallel) (local|sliding window) attention[ with {window}]",
        "extend {target} (with|by) a (local|sliding-window) attention branch[ <{window}>]",
        "augment {target} with (local|windowed) attention[ using {window}]",
        "add windowed attention[ with {window}][ (to|in) {target}]",
        "~new local attention branch (in|for) {target}[, {window}]",
        "equip {target} with an additional local attention[, {window}]",
        "introduce a (local|windowed) attention branch[ in {target}][ with {window}]",
        "?use local attention[ (in|for) {target}][ with {window}]",
        "?~local attention[ (in|for|on) {target}][, {window}]",
        "?apply local attention[ (in|to) {target}][ with {window}]",
    ),
    unseen=(
        "complement the attention of {target} (with|by) a local one[ using {window}]",
        "let {target} also attend locally[ with {window}]",
        "~{target} should (get|receive) a second, local attention beside its own[ with {window}]",
        "supplement {target} with a windowed attention branch[, {window}]",
        "~besides the full attention we need a local one[ in {target}][ with {window}]",
        "mount a local attention path parallel to the present one[ in {target}][ with {window}]",
    ),
    propose=_propose_branch,
    refuse=(
        out_of_range("local_attention_branch", lambda rng: _window(rng)[1]),
        _no_attention("local_attention_branch", "window"),
    ),
    other=("convert", 0.15, 0.5),
    weight=2.0,
)


def _own_window(anatomy: Anatomy, layer: Layer) -> int | None:
    roles, role = anatomy.roles(layer.block), own_attention(anatomy, layer)
    return _attrs(roles, role)["window"] if role else None  # type: ignore[return-value]


def _set_window(writer: ScriptWriter, roles: BlockRoles, window: int | None) -> None:
    assert roles.own is not None
    if _attrs(roles, roles.own)["window"] != window:
        writer.set(roles.own.node, window=None if window is None else Number.of(window))


def _propose_convert(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda x: own_attention(anatomy, x) is not None)
    if target is None:
        return None
    window, slots = _window(rng, 0.7)
    width = window or DEFAULT_WINDOW
    draft = layer_draft(
        "local_attention_convert", anatomy, target, lambda w, r: _set_window(w, r, width),
        values={"window": window}, slots=slots, say_target=said,
    )  # fmt: skip
    same = all(_own_window(anatomy, layer) == width for layer in target.layers)
    return refused(draft, "already_so") if same else draft


LOCAL_CONVERT = Intent(
    name="local_attention_convert",
    reading="convert",
    seen=(
        "make the attention[ (of|in) {target}] local[ with {window}]",
        "make the (self-|self |)attention[ (of|in) {target}] (windowed|sliding-window)[ with {window}]",
        "(restrict|limit) the attention[ (of|in) {target}] to (a sliding window|a local "
        "window|local attention)[, {window}]",
        "(convert|turn|change) the attention[ (of|in) {target}] (to|into) "
        "(local|sliding-window|windowed) attention[ with {window}]",
        "replace the (full |global |)attention[ (of|in) {target}] (by|with) (local|sliding "
        "window|windowed) attention[ with {window}]",
        "set the attention window[ (of|in) {target}] to {window}",
        "~{target}: make the attention local[, {window}]",
        "switch[ {target}] (to|over to) (sliding window|local|windowed) attention[ with {window}]",
        "~sliding window attention instead of full attention[ in {target}][, {window}]",
        "~local attention instead of (full|global) attention[ in {target}][ with {window}]",
        "let the attention[ (of|in) {target}] (see|look at|attend to) only (nearby "
        "tokens|neighbouring positions|a local window)[, {window}]",
        "make {target} use (local|sliding-window) attention instead of (global|full) attention[ with {window}]",
        "use sliding window attention in place of the full attention[ in {target}][ with {window}]",
        "limit the attention span[ (of|in) {target}] to {window}",
        "turn {target} into (a local attention|sliding window attention)[ with {window}]",
    ),
    unseen=(
        "localise the attention[ (of|in) {target}][ with {window}]",
        "swap full attention for a banded one[ in {target}][, {window}]",
        "narrow the attention[ (of|in) {target}] down to (its neighbourhood|a window)[, {window}]",
        "~attention[ (of|in) {target}] should only reach (close|nearby) tokens[, {window}]",
        "constrain[ {target}] to attend within a window[, {window}]",
        "~no more full attention[ in {target}], windowed only[, {window}]",
    ),
    propose=_propose_convert,
    refuse=(
        out_of_range("local_attention_convert", lambda rng: _window(rng)[1]),
        _no_attention("local_attention_convert", "window"),
    ),
    weight=1.6,
)


def _propose_global(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda x: own_attention(anatomy, x) is not None, 0.25)
    if target is None:
        return None
    draft = layer_draft(
        "global_attention", anatomy, target, lambda w, r: _set_window(w, r, None), values={"window": None},
        slots={}, say_target=said
    )  # fmt: skip
    same = all(_own_window(anatomy, layer) is None for layer in target.layers)
    if same and rng.random() < 0.7:
        return None
    return refused(draft, "already_so") if same else draft


GLOBAL = Intent(
    name="global_attention",
    reading="convert",
    seen=(
        "make the attention[ (of|in) {target}] (global|full)",
        "(remove|drop|delete) the (sliding |attention |)window[ (of|in|from) {target}]",
        "use (full|global) attention[ in {target}]",
        "(convert|turn|change) the attention[ (of|in) {target}] (to|into) (full|global) attention",
        "replace the (sliding window|local|windowed) attention[ (of|in) {target}] (by|with) (full|global) attention",
        "~(full|global) attention[ (in|for) {target}]",
        "~{target}: (full|global) attention",
        "switch[ {target}] to (full|global) attention",
        "let[ {target}] attend to (all tokens|the whole sequence|every position)",
        "set the attention window[ of {target}] to none",
        "~(global|full) attention instead of (sliding window|local) attention[ in {target}]",
        "make[ {target}] attend globally",
        "turn off the (sliding window|local attention|window)[ in {target}]",
        "disable (sliding window|windowed) attention[ in {target}]",
    ),
    unseen=(
        "lift the window restriction[ (of|in) {target}]",
        "~no sliding window any more[ in {target}]",
        "widen the attention[ (of|in) {target}] to the complete sequence",
        "~attention[ (of|in) {target}] should reach everything",
        "undo the windowing of attention[ in {target}]",
    ),
    propose=_propose_global,
    refuse=(out_of_range("global_attention", lambda _: {}), _no_attention("global_attention")),
    weight=1.2,
)


def _propose_softcap(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda x: own_attention(anatomy, x) is not None, 0.25)
    if target is None:
        return None
    cap = usual(rng, CAPS, 2, 120)

    def edit(writer: ScriptWriter, roles: BlockRoles) -> None:
        assert roles.own is not None
        if _attrs(roles, roles.own)["softcap"] != cap:
            writer.set(roles.own.node, softcap=Number.of(cap))

    slots = {"cap": Phrases((f"{cap}", f"{cap}", f"{cap}.0"), (f"a value of {cap}",))}
    draft = layer_draft(
        "attention_softcap", anatomy, target, edit, values={"softcap": cap}, slots=slots, say_target=said
    )
    now = [_attrs(anatomy.roles(x.block), anatomy.roles(x.block).own)["softcap"] for x in target.layers]  # type: ignore[arg-type]
    return refused(draft, "already_so") if all(value == cap for value in now) else draft


SOFTCAP = Intent(
    name="attention_softcap",
    reading="convert",
    seen=(
        "cap the attention logits[ (of|in) {target}] at {cap}",
        "cap attention scores[ (of|in) {target}] at {cap}",
        "(add|apply) (a |)(softcap|soft cap|logit softcap) of {cap} to the attention[ (of|in) {target}]",
        "set (the |)(attention |)softcap[ (of|in) {target}] to {cap}",
        "(softcap|soft-cap) the attention (logits|scores)[ (of|in) {target}] (at|to) {cap}",
        "use (a |)(softcap|soft capping|logit cap) of {cap} in the attention[ of {target}]",
        "~{target}: attention softcap {cap}",
        "~attention softcap {cap}[ (in|for) {target}]",
        "~softcap={cap}[ (in|for) {target}]",
        "limit the attention (logits|scores)[ (of|in) {target}] with tanh at {cap}",
        "squash the attention (logits|scores)[ (of|in) {target}] with (a |)(softcap|cap) of {cap}",
        "add logit soft-capping <{cap}> to (the |)attention[ (of|in) {target}]",
        "give the attention[ (of|in) {target}] a (softcap|logit cap) of {cap}",
    ),
    unseen=(
        "bound the attention logits[ (of|in) {target}] softly by {cap}",
        "~attention scores[ (of|in) {target}] must not exceed {cap}, use a tanh cap",
        "keep attention logits[ (of|in) {target}] below {cap} with soft capping",
        "clamp the attention scores[ (of|in) {target}] smoothly at {cap}",
    ),
    propose=_propose_softcap,
    refuse=(
        out_of_range("attention_softcap", lambda rng: {"cap": say(str(rng.choice(CAPS)))}),
        _no_attention("attention_softcap", "cap"),
    ),
    weight=0.8,
)


def _conv_in_place(anatomy: Anatomy, layer: Layer) -> bool:
    roles, role = anatomy.roles(layer.block), own_attention(anatomy, layer)
    return (
        role is not None
        and roles.block.types[role.source] == roles.block.types[role.out]
        and roles.block.types[role.out].rank == 3
    )


def _kernel(rng: random.Random, common: tuple[int, ...], said: float) -> tuple[int | None, dict[str, Phrases]]:
    if rng.random() >= said:
        return None, {}
    k = rng.choice(common)
    seen = (
        f"kernel size {k}",
        f"kernel {k}",
        f"a kernel of {k}",
        f"kernel_size={k}",
        f"a kernel size of {k}",
        f"length {k}",
        *numbered("kernel", k),
    )
    return k, {"kernel": Phrases(seen, (f"filters of length {k}", f"{k} taps"))}


def _long_conv(writer: ScriptWriter, roles: BlockRoles, kernel: int, beside: bool) -> None:
    role = roles.own
    assert role is not None
    causal = {} if _attrs(roles, role)["causal"] else {"causal": False}
    new = writer.add("LongConv", role.source, kernel_size=Number.of(kernel), **causal)
    if beside:
        new = writer.add("Add", role.out, new)
    writer.swap_uses(role.out, new)


def _propose_conv(intent: str, beside: bool, common: tuple[int, ...], default: int) -> Propose:
    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        target, said = target_or_all(anatomy, rng, lambda layer: _conv_in_place(anatomy, layer), 0.08)
        if target is None:
            return None
        kernel, slots = _kernel(rng, common, 0.5)
        return layer_draft(
            intent, anatomy, target, lambda w, r: _long_conv(w, r, kernel or default, beside),
            values={"kernel_size": kernel}, slots=slots, say_target=said,
        )  # fmt: skip

    return propose


LONG_CONV = Intent(
    name="long_conv",
    reading="replace",
    seen=(
        "replace (the |)attention[ (of|in) {target}] (by|with) (a |)(long convolution|long conv)[ with {kernel}]",
        "replace (the |)(self-attention|self attention)[ (of|in) {target}] (by|with) a (long "
        "convolution|LongConv)[, {kernel}]",
        "use (a |)(long convolution|long conv) instead of attention[ in {target}][ with {kernel}]",
        "~(long convolution|long conv) instead of attention[ (in|for) {target}][, {kernel}]",
        "(swap|exchange) (the |)attention[ (of|in) {target}] for (a |)long convolution[ with {kernel}]",
        "(turn|convert|change) the attention[ (of|in) {target}] into a (long convolution|long conv)[ with {kernel}]",
        "make {target} use (a |)long convolution instead of attention[ with {kernel}]",
        "~{target}: attention -> (long convolution|LongConv)[, {kernel}]",
        "put a long convolution in place of the attention[ of {target}][ with {kernel}]",
        "substitute a long convolution for the attention[ (of|in) {target}][ with {kernel}]",
        "replace attention[ (of|in) {target}] (by|with) a (Hyena-like|Hyena style) long convolution[ with {kernel}]",
        "(remove|drop) the attention[ (of|in) {target}] and use a long convolution (there|instead)[ with {kernel}]",
        "~long conv[ (in|for) {target}] where the attention was[, {kernel}]",
    ),
    unseen=(
        "trade the attention[ (of|in) {target}] for a long convolution[ with {kernel}]",
        "~a long convolution should take over from attention[ in {target}][, {kernel}]",
        "mix tokens by a long convolution rather than by attention[ in {target}][, {kernel}]",
        "get rid of attention[ in {target}] in favour of (a |)long convolution[ with {kernel}]",
        "let a long convolution do the job of attention[ in {target}][ with {kernel}]",
    ),
    propose=_propose_conv("long_conv", False, (16, 32, 64, 128, 256, 512, 1024), DEFAULT_KERNEL),
    refuse=(out_of_range("long_conv", lambda rng: _kernel(rng, (64, 128), 0.5)[1]), _no_attention("long_conv")),
)
CONV_BRANCH = Intent(
    name="conv_branch",
    reading="branch",
    seen=(
        "add a convolution (beside|next to|parallel to) (the |)attention[ (of|in) {target}][ with {kernel}]",
        "add (a |)(convolution|convolutional|depthwise convolution) branch (to|in) {target}[ with {kernel}]",
        "add a parallel (depthwise |)(convolution|conv) (to the attention of|in) {target}[ with {kernel}]",
        "(put|place) a (convolution|conv) (branch|path) beside the attention[ (of|in) {target}][ with {kernel}]",
        "(insert|attach) a (depthwise |)(convolution|conv) branch (in parallel to|next to) the "
        "attention[ of {target}][ with {kernel}]",
        "~{target}: add a conv branch[, {kernel}]",
        "~(conv|convolution) branch (in|for) {target}[, {kernel}]",
        "give {target} a (convolution|convolutional) branch[ with {kernel}]",
        "extend {target} (with|by) a (convolution|depthwise convolution) branch[ with {kernel}]",
        "augment the attention[ of {target}] with a (depthwise |)convolution[ of {kernel}]",
        "combine the attention[ of {target}] with a parallel convolution[ with {kernel}]",
        "introduce a convolutional branch in {target}[ with {kernel}]",
    ),
    unseen=(
        "complement the attention[ of {target}] by a convolution[ with {kernel}]",
        "let a convolution run alongside attention[ in {target}][, {kernel}]",
        "~{target} should get a convolution path in addition to attention[ with {kernel}]",
        "~besides attention we want a convolution[ in {target}][, {kernel}]",
    ),
    propose=_propose_conv("conv_branch", True, (3, 5, 7, 9, 15, 31), 7),
    refuse=(out_of_range("conv_branch", lambda rng: _kernel(rng, (3, 7), 0.5)[1]), _no_attention("conv_branch")),
    weight=0.6,
)


ATTENTION = (LOCAL_BRANCH, LOCAL_CONVERT, GLOBAL, SOFTCAP, LONG_CONV, CONV_BRANCH)
