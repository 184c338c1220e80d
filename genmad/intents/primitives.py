"""What may stand in for attention: structured global and separable convolutions, hashing, heads of two kinds."""

import random
from collections.abc import Callable

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.attention import _conv_in_place, _no_attention, own_attention
from genmad.intents.draft import Draft, Intent, Propose, layer_draft, out_of_range, target_or_all
from genmad.intents.frames import exchange_frames
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import BlockRoles
from genmad.intents.targets import count
from genmad.intents.values import usual, window_phrases
from genmad.intents.writing import Edit, Number, ScriptWriter
from genmad.ir.script import Setting

DEFAULT_SEPARABLE = 7
Sizes = tuple[dict[str, int | None], Phrases | None]
"""Values by name, None where the sentence leaves one open, and the words for those that are said."""


def plain_attention(anatomy: Anatomy, layer: Layer) -> bool:
    """Whether the layer has self-attention that reads no mask or bias beside queries, keys and values."""
    role = own_attention(anatomy, layer)
    return role is not None and len(anatomy.roles(layer.block).block.by_name[role.node].inputs) == 3


def is_causal(roles: BlockRoles) -> bool:
    assert roles.own is not None
    return bool(roles.block.by_name[roles.own.node].attr_map["causal"])


def _numbers(**values: int | None) -> dict[str, Setting]:
    """Settings of the values that are said."""
    return {name: Number.of(value) for name, value in values.items() if value is not None}


def _joined(*parts: Phrases | None) -> Phrases | None:
    """One phrase out of those that there are, each as a choice."""
    said = [p for p in parts if p is not None]
    if not said:
        return None
    seen, unseen = ("(" + "|".join(p.seen) + ")" for p in said), ("(" + "|".join(p.unseen) + ")" for p in said)
    return Phrases((" and ".join(seen),), (" and ".join(unseen),))


def swap_sg_conv(writer: ScriptWriter, roles: BlockRoles, kernel: int | None, scales: int | None) -> None:
    assert roles.own is not None
    causal = {} if is_causal(roles) else {"causal": False}
    sizes = _numbers(kernel_size=kernel, num_scales=scales)
    writer.swap_uses(roles.own.out, writer.add("SGConv", roles.own.source, **sizes, **causal))


def swap_separable(writer: ScriptWriter, roles: BlockRoles, kernel: int | None) -> None:
    assert roles.own is not None
    causal = {} if is_causal(roles) else {"causal": False}
    new = writer.add(
        "SeparableConv1d", roles.own.source, out_features=Number("channels", roles.own.out),
        kernel_size=Number.of(kernel or DEFAULT_SEPARABLE), **causal,
    )  # fmt: skip
    writer.swap_uses(roles.own.out, new)


def swap_lsh(writer: ScriptWriter, roles: BlockRoles, hashes: int | None, buckets: int | None) -> None:
    """The queries are the keys too; the projection of the keys is no longer needed."""
    assert roles.own is not None
    node = roles.block.by_name[roles.own.node]
    causal = {"causal": True} if is_causal(roles) else {}
    sizes = _numbers(num_hashes=hashes, num_buckets=buckets)
    heads = Number("like", node.name)
    new = writer.add("LSHAttention", node.inputs[0], node.inputs[2], num_heads=heads, **sizes, **causal)
    writer.swap_uses(node.outputs[0], new)


def mix_heads(writer: ScriptWriter, roles: BlockRoles, local: int | None, window: int | None) -> None:
    assert roles.own is not None
    writer.put(roles.own.node, "MixedAttention", **_numbers(local_heads=local, window=window))


def _kernel_words(k: int) -> Phrases:
    seen = (f"kernel size {k}", f"kernel {k}", f"a kernel of {k}", f"kernel_size={k}", f"a kernel size of {k}")
    return Phrases(seen, (f"filters of length {k}", f"{k} taps"))


def _sg_sizes(rng: random.Random) -> Sizes:
    kernel = rng.choice((2, 3, 4, 5, 8, 16, 32, 48, 64, 96, 128)) if rng.random() < 0.45 else None
    scales = rng.choice((2, 3, 4, 5, 6, 7, 8)) if rng.random() < 0.2 else None
    few = Phrases((f"{count(scales)} scales", f"num_scales={scales}", f"{count(scales)} sub-kernels"), (f"{scales} "
        "different scales",)) if scales else None  # fmt: skip
    return {"kernel_size": kernel, "num_scales": scales}, _joined(_kernel_words(kernel) if kernel else None, few)


def _sg3_sizes(rng: random.Random) -> Sizes:
    del rng
    return {"kernel_size": 3, "num_scales": None}, None


def _lsh_sizes(rng: random.Random) -> Sizes:
    hashes = rng.choice((1, 2, 3, 4, 6, 8)) if rng.random() < 0.4 else None
    buckets = rng.choice((2, 4, 8, 16, 32, 64, 128, 256)) if rng.random() < 0.4 else None
    rounds = Phrases((f"{count(hashes)} (hashes|hash rounds|rounds of hashing)", f"num_hashes={hashes}"), (f"{hashes} "
        "hashing rounds",)) if hashes else None  # fmt: skip
    bins = Phrases((f"{buckets} buckets", f"num_buckets={buckets}"), (f"{buckets} hash buckets",)) if buckets else None
    return {"num_hashes": hashes, "num_buckets": buckets}, _joined(rounds, bins)


def _separable_sizes(rng: random.Random) -> Sizes:
    kernel = usual(rng, (3, 5, 7, 9, 11, 15, 31, 63), 2, 40) if rng.random() < 0.5 else None
    return {"kernel_size": kernel}, _kernel_words(kernel) if kernel else None


def _propose(
    intent: str, words: Phrases, sizes: Callable[[random.Random], Sizes], fits: Callable[[Anatomy, Layer], bool],
    edit: Callable[..., Edit],
) -> Propose:  # fmt: skip
    """A proposal that puts `words` in the place of attention; `edit` makes the edit out of the values."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        target, said = target_or_all(anatomy, rng, lambda layer: fits(anatomy, layer), 0.1)
        if target is None:
            return None
        values, size = sizes(rng)
        slots = {"new": words, **({"size": size} if size else {})}
        return layer_draft(intent, anatomy, target, edit(*values.values()), values=values, slots=slots, say_target=said)

    return propose


def _in_place(anatomy: Anatomy, layer: Layer) -> bool:
    return _conv_in_place(anatomy, layer)


def _same_rank(anatomy: Anatomy, layer: Layer) -> bool:
    roles, role = anatomy.roles(layer.block), own_attention(anatomy, layer)
    return role is not None and all(roles.block.types[v].rank == 3 for v in (role.source, role.out))


_SEEN, _UNSEEN = exchange_frames("(the |)(attention|self-attention|self attention)", "{new}[ with {size}]")
_MORE = (
    "make {target} use {new} instead of attention[ with {size}]",
    "use {new} as the (token mixer|sequence mixer|mixing layer)[ in {target}][ with {size}]",
    "~{new}[ (in|for) {target}] where the attention was[, {size}]",
    "(remove|drop) the attention[ (of|in) {target}] and use {new} (there|instead)[ with {size}]",
    "let {target} mix tokens with {new}[, {size}]",
    "mix positions[ in {target}] by {new} rather than by attention[ with {size}]",
    "~{target}: attention -> {new}[, {size}]",
    "~the attention[ (of|in) {target}] should become {new}[ with {size}]",
)
_MORE_UNSEEN = (
    "have {new} take over from attention[ in {target}][, {size}]",
    "~{new}[ (in|for) {target}], no attention any more[, {size}]",
)


def _exchange(
    name: str, words: Phrases, sizes: Callable[[random.Random], Sizes], fits: Callable[[Anatomy, Layer], bool],
    edit: Callable[..., Edit], weight: float,
) -> Intent:  # fmt: skip
    absent = _no_attention(name)

    def no_attention(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        draft = absent(anatomy, rng)
        return None if draft is None else Draft(
            request=draft.request, slots={**draft.slots, "new": words}, build=None, exact=draft.exact
        )  # fmt: skip

    return Intent(
        name=name, reading="replace", seen=(*_SEEN, *_MORE), unseen=(*_UNSEEN, *_MORE_UNSEEN),
        propose=_propose(name, words, sizes, fits, edit),
        refuse=(out_of_range(name, lambda _: {"new": words}), no_attention),
        weight=weight, combines=False,
    )  # fmt: skip


SG_CONV = _exchange(
    "sg_conv",
    say("SGConv", "(an |)SGConv", "(a |)(structured global convolution|structured global conv)", "(an |)sgconv",
        "(a |)global convolution <SGConv>", unseen=("(a |)multi-scale global convolution", "(an |)SG conv")),
    _sg_sizes, _in_place, lambda k, n: lambda w, r: swap_sg_conv(w, r, k, n), 1.0,
)  # fmt: skip
SG_CONV_3 = _exchange(
    "sg_conv3",
    say("SGConv3", "(an |)SGConv3", "(an |)SGConv-3", "(an |)SGConv with kernel (size |)3", "sgconv3",
        unseen=("(an |)SGConv of kernel size 3", "(a |)structured global convolution with 3 taps")),
    _sg3_sizes, _in_place, lambda k, n: lambda w, r: swap_sg_conv(w, r, k, n), 0.5,
)  # fmt: skip
LSH = _exchange(
    "lsh_attention",
    say("LSH attention", "(Reformer|Reformer-style) attention", "locality-sensitive hashing attention", "LSHAttention",
        "(locality sensitive hashing|LSH) attention", "hashed attention",
        unseen=("attention by locality-sensitive hashing", "bucketed attention as in Reformer")),
    _lsh_sizes, plain_attention, lambda h, b: lambda w, r: swap_lsh(w, r, h, b), 1.0,
)  # fmt: skip
SEPARABLE = _exchange(
    "separable_conv",
    say("(a |)separable (convolution|conv)", "(a |)separable (conv 1d|1d convolution|conv1d)", "SeparableConv1d",
        "(a |)depthwise separable convolution", "(a |)separable conv along the sequence",
        unseen=("(a |)depthwise plus pointwise convolution", "(a |)one-dimensional separable convolution")),
    _separable_sizes, _same_rank, lambda k: lambda w, r: swap_separable(w, r, k), 1.0,
)  # fmt: skip


def _heads_phrases(local: int | None) -> Phrases:
    if local is None:
        return Phrases(("half (of |)the heads", "half of the attention heads", "half the heads", "every second head",
            "50% of the heads"), ("one half of the heads", "half of all heads"))  # fmt: skip
    if local == 1:
        return say("one head", "1 head", "one of the heads", "a single head", unseen=("just one head",))
    n = count(local)
    return Phrases((f"{n} heads", f"{n} of the heads", f"{n} attention heads"), (f"{n} out of the heads",))


def _propose_mixed(possible: bool) -> Propose:
    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        target, said = target_or_all(anatomy, rng, lambda layer: _sees_all(anatomy, layer), 0.12)
        if target is None:
            return None
        heads = [_num_heads(anatomy, layer) for layer in target.layers]
        if possible:
            known = list(range(1, min(heads)))
            local = rng.choice(known) if known and rng.random() < 0.55 else None
            window = usual(rng, (4, 8, 16, 32, 64, 100, 128, 256, 512), 2, 600) if rng.random() < 0.5 else None
        else:
            local, window = max(heads) + rng.choice((1, 2, 4, 8, 20)), None
        slots = {"heads": _heads_phrases(local), **({"window": window_phrases(window)} if window else {})}
        return layer_draft(
            "mixed_heads", anatomy, target, lambda w, r: mix_heads(w, r, local, window),
            values={"local_heads": local, "window": window}, slots=slots, say_target=said,
            refusal="" if possible else "not_divisible",
        )  # fmt: skip

    return propose


def _sees_all(anatomy: Anatomy, layer: Layer) -> bool:
    """Whether there is plain attention without a window, so that some of its heads can get one."""
    roles, role = anatomy.roles(layer.block), own_attention(anatomy, layer)
    return role is not None and plain_attention(anatomy, layer) and _window(roles) is None


def _window(roles: BlockRoles) -> int | None:
    assert roles.own is not None
    window: int | None = roles.block.by_name[roles.own.node].attr_map["window"]
    return window


def _num_heads(anatomy: Anatomy, layer: Layer) -> int:
    roles = anatomy.roles(layer.block)
    assert roles.own is not None
    return int(roles.block.by_name[roles.own.node].attr_map["num_heads"])


_LOCAL = "(local|windowed|sliding-window)"
MIXED = Intent(
    name="mixed_heads",
    reading="convert",
    seen=(
        f"make {{heads}}[ (of|in) {{target}}] {_LOCAL}[ with {{window}}]",
        f"use {_LOCAL} attention in {{heads}}[ of {{target}}][ with {{window}}]",
        f"let {{heads}}[ of {{target}}] be {_LOCAL}[ with {{window}}] and the rest full",
        f"mix {_LOCAL} and full heads[ in {{target}}]: {{heads}} {_LOCAL}[, {{window}}]",
        f"use mixed heads[ in {{target}}], {{heads}} {_LOCAL}[ with {{window}}]",
        "(restrict|limit) {heads}[ (of|in) {target}] to a local window[, {window}]",
        f"(turn|convert|change) {{heads}}[ (of|in) {{target}}] (to|into) {_LOCAL} heads[ with {{window}}]",
        f"~{{heads}} {_LOCAL}, the others full[ in {{target}}][, {{window}}]",
        f"~{{target}}: {{heads}} {_LOCAL}[, {{window}}]",
        f"~mixed heads[ (in|for) {{target}}]: {{heads}} {_LOCAL}, the rest global[, {{window}}]",
        f"~{_LOCAL} attention for {{heads}} only[ in {{target}}][, {{window}}]",
        "give {heads}[ (of|in) {target}] a local window and keep the others global[, {window}]",
        "have {heads}[ (of|in) {target}] attend locally[ with {window}]",
        f"(split|divide) the heads[ (of|in) {{target}}]: {{heads}} {_LOCAL}, the rest full[, {{window}}]",
        f"~I want {{heads}}[ (of|in) {{target}}] to be {_LOCAL}[ with {{window}}]",
        f"~(could|can) you make {{heads}}[ (of|in) {{target}}] {_LOCAL}[ with {{window}}]?",
        f"replace the attention[ (of|in) {{target}}] (by|with) mixed heads, {{heads}} {_LOCAL}[, {{window}}]",
        "apply a sliding window to {heads}[ (of|in) {target}][, {window}]",
        f"combine local and global heads[ in {{target}}] with {{heads}} {_LOCAL}[, {{window}}]",
        f"set {{heads}}[ (of|in) {{target}}] to {_LOCAL} attention[ with {{window}}]",
        "~{heads}[ (of|in) {target}] should only see nearby tokens[, {window}]",
    ),
    unseen=(
        "localise {heads}[ (of|in) {target}][ with {window}]",
        "~blend of heads[ in {target}]: {heads} near-sighted, the remainder global[, {window}]",
        "confine {heads}[ (of|in) {target}] to their neighbourhood[, {window}]",
        "narrow the view of {heads}[ (of|in) {target}][ to {window}]",
        "~it is enough for {heads}[ (of|in) {target}] to look at close positions[, {window}]",
        "dedicate {heads}[ (of|in) {target}] to local context[, {window}]",
    ),
    propose=_propose_mixed(True),
    refuse=(
        _propose_mixed(False),
        out_of_range("mixed_heads", lambda _: {"heads": _heads_phrases(None)}),
        _no_attention("mixed_heads", "heads"),
    ),
    combines=False,
)

PRIMITIVES = (SG_CONV, SG_CONV_3, LSH, SEPARABLE, MIXED)
