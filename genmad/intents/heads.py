"""Edits of the number of attention heads and of key/value heads."""

import random

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.attention import _no_attention, query_width
from genmad.intents.draft import Draft, Intent, Propose, layer_draft, out_of_range, refused, target_or_all
from genmad.intents.phrasing import Phrases
from genmad.intents.roles import AttentionRole, BlockRoles
from genmad.intents.wordings.slots import SLOTS, numbered
from genmad.intents.writing import Number, ScriptWriter


def _heads(roles: BlockRoles, role: AttentionRole) -> int:
    return int(roles.block.by_name[role.node].attr_map["num_heads"])


def _kv_heads(roles: BlockRoles, role: AttentionRole) -> int:
    node = roles.block.by_name[role.node]
    key = roles.block.types[node.inputs[1]]
    if key.rank == 4:
        return int(key.shape[1])  # type: ignore[arg-type]
    return int(key.shape[-1]) * _heads(roles, role) // int(query_width(roles, role) or 1)  # type: ignore[arg-type]


def _flat(anatomy: Anatomy, layer: Layer) -> bool:
    """Whether the layer has an own attention with 3D inputs, so that its heads are one attribute."""
    roles = anatomy.roles(layer.block)
    return roles.own is not None and roles.block.types[roles.block.by_name[roles.own.node].inputs[0]].rank == 3


def _ratio(new: int, old: int) -> Number | None:
    """`old` times or over a whole number."""
    if new % old == 0:
        return Number("old", times=new // old)
    return Number("old", over=old // new) if old % new == 0 else None


def set_heads(writer: ScriptWriter, roles: BlockRoles, heads: int) -> None:
    """num_heads of the attention, and of the rotary embeddings in front of it, in the same proportion."""
    role = roles.own
    assert role is not None
    if _heads(roles, role) == heads:
        return
    for name in role.rotary:
        if name and roles.block.by_name[name].attr_map.get("num_heads"):
            writer.set(name, num_heads=_ratio(heads, _heads(roles, role)) or Number.of(heads))
    writer.set(role.node, num_heads=Number.of(heads))


def heads_phrases(n: int, kind: str = "") -> Phrases:
    noun = f"{kind}head" + ("s" if n > 1 else "")
    return Phrases((f"{n} {noun}",), (f"exactly {n} {noun}", f"a total of {n} {noun}"))


def _propose_heads(possible: bool) -> Propose:
    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        target, said = target_or_all(anatomy, rng, lambda layer: _flat(anatomy, layer), 0.25)
        if target is None:
            return None
        roles = anatomy.roles(target.layers[0].block)
        assert roles.own is not None
        now, width = _heads(roles, roles.own), query_width(roles, roles.own) or 1
        rotary = any(roles.own.rotary)
        divides = [
            n for n in (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32) if width % n == 0 and (not rotary or now % n == 0)
        ]
        others = [n for n in (3, 5, 7, 9, 11, 13, 14, 17, 19, 23, 10, 6, 12) if width % n]
        # Twice the heads halve their width, and a rotary table is then wider than a head.
        others += [n for n in (2 * now, 4 * now) if rotary]
        if rng.random() < 0.9:
            divides = [n for n in divides if n != now]
        pool = divides if possible else others
        if not pool:
            return None
        heads = rng.choice(pool)
        draft = layer_draft(
            "num_heads", anatomy, target, lambda w, r: set_heads(w, r, heads), values={"num_heads": heads},
            slots={"heads": heads_phrases(heads, rng.choice(("", "", "attention ")))}, say_target=said,
            refusal="" if possible else "not_divisible",
        )  # fmt: skip
        same = all(_heads(r, r.own) == heads for x in target.layers if (r := anatomy.roles(x.block)).own)
        return refused(draft, "already_so") if possible and same else draft

    return propose


NUM_HEADS = Intent(
    name="num_heads",
    reading="resize",
    seen=(
        "use {heads}[ in {target}]",
        "set the number of heads[ (of|in) {target}] to {heads}",
        "change the (number of heads|head count)[ (of|in) {target}] to {heads}",
        "make the attention[ (of|in) {target}] use {heads}",
        "(split|divide) the attention[ (of|in) {target}] into {heads}",
        "give {target} {heads}",
        "~{target}: {heads}",
        "~{heads}[ (in|for) {target}]",
        "let {target} have {heads}",
        "run the attention[ of {target}] with {heads}",
        "(change|switch)[ {target}] to {heads}",
        "~attention with {heads}[ in {target}]",
        "(reduce|increase|adjust|modify) the heads[ (of|in) {target}] to {heads}",
    ),
    unseen=(
        "~{target} should attend with {heads}",
        "partition the attention[ of {target}] among {heads}",
        "~we need {heads}[ in {target}]",
        "configure the attention[ of {target}] for {heads}",
        "go for {heads}[ in {target}]",
    ),
    propose=_propose_heads(True),
    refuse=(
        _propose_heads(False),
        _propose_heads(False),
        out_of_range("num_heads", lambda rng: {"heads": heads_phrases(rng.choice((2, 4, 8, 16)))}),
        _no_attention("num_heads", "heads"),
    ),
    weight=1.2,
)


def _separate(anatomy: Anatomy, layer: Layer) -> bool:
    """Whether keys and values have Linear projections of their own."""
    roles = anatomy.roles(layer.block)
    role = roles.own
    if role is None or not role.k or not role.v or len({role.q, role.k, role.v}) < 3:
        return False
    linear = {n.name for n in roles.linears}
    return {role.k, role.v} <= linear


def _fused(anatomy: Anatomy, layer: Layer) -> bool:
    roles = anatomy.roles(layer.block)
    return roles.own is not None and roles.own.fused


def set_kv_heads(writer: ScriptWriter, roles: BlockRoles, kv: int) -> None:
    """Widths of the key and value projections; a rotary embedding of the keys is told its heads.

    The rotary embedding goes first when heads get fewer and last when they get more: in between its heads may only be
    too wide, never too narrow for its table.
    """
    role = roles.own
    assert role is not None
    now = _kv_heads(roles, role)
    if now == kv:
        return
    size = Number("head_dim", role.node, times=kv)
    rotary = role.rotary[1]
    rotary = rotary if rotary and roles.block.by_name[rotary].attr_map.get("num_heads") else ""
    if rotary and kv < now:
        writer.set(rotary, num_heads=Number.of(kv))
    writer.set(role.k, out_features=size)
    writer.set(role.v, out_features=size)
    if rotary and kv > now:
        writer.set(rotary, num_heads=Number.of(kv))


def _propose_kv(mode: str) -> Propose:
    """`mode`: can (be done), cannot (be divided), fused (projections), or mqa."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        fits = _fused if mode.endswith("fused") else _separate
        target, said = target_or_all(anatomy, rng, lambda layer: fits(anatomy, layer), 0.3)
        if target is None:
            return None
        roles = anatomy.roles(target.layers[0].block)
        assert roles.own is not None
        heads = _heads(roles, roles.own)
        divides = [n for n in (1, 2, 3, 4, 6, 8, 12, 16) if heads % n == 0]
        others = [n for n in (3, 5, 6, 7, 9, 10, 11, 12, 13, 20) if heads % n]
        name = "gqa_to_mqa" if mode.startswith("mqa") else "kv_heads"
        if rng.random() < 0.9:
            now = _kv_heads(roles, roles.own)
            divides = [n for n in divides if n != now] or divides
        kv = 1 if name == "gqa_to_mqa" else rng.choice(others if mode == "cannot" else divides)
        slots = {} if name == "gqa_to_mqa" else {"heads": _kv_phrases(kv)}
        refusal = "not_divisible" if mode == "cannot" else ""
        draft = layer_draft(
            name, anatomy, target, lambda w, r: set_kv_heads(w, r, kv), values={"kv_heads": kv}, slots=slots,
            say_target=said, refusal=refusal,
        )  # fmt: skip
        if mode.endswith("fused"):
            return refused(draft, "not_applicable")
        same = all(_kv_heads(r, r.own) == kv for x in target.layers if (r := anatomy.roles(x.block)).own)
        return refused(draft, "already_so") if same else draft

    return propose


def _kv_phrases(n: int) -> Phrases:
    seen = (f"{n} kv heads", f"{n} key/value heads", f"{n} key-value heads", f"{n} KV heads",
        *numbered("kv heads", n)) if n > 1 else (*SLOTS["kv head"],
        "1 kv head", "one kv head", "a single key/value head", "1 key-value head")  # fmt: skip
    return Phrases(seen, (f"{n} heads for keys and values", f"{n} shared key and value heads"))


KV_HEADS = Intent(
    name="kv_heads",
    reading="resize",
    seen=(
        "use {heads}[ in {target}]",
        "set the number of kv heads[ (of|in) {target}] to {heads}",
        "use grouped-query attention with {heads}[ in {target}]",
        "use (GQA|grouped query attention) with {heads}[ (in|for) {target}]",
        "(convert|turn|change) the attention[ (of|in) {target}] (to|into) grouped-query attention with {heads}",
        "(share|group) keys and values[ (of|in) {target}] <{heads}>",
        "(reduce|change|adjust) the kv heads[ (of|in) {target}] to {heads}",
        "give {target} {heads}",
        "~{target}: {heads}",
        "~{heads}[ (in|for) {target}]",
        "~GQA with {heads}[ (in|for) {target}]",
        "let the attention[ of {target}] have {heads}",
        "make the attention[ (of|in) {target}] use {heads}",
        "switch[ {target}] to grouped query attention, {heads}",
    ),
    unseen=(
        "let the query heads[ of {target}] share {heads}",
        "~only {heads}[ in {target}]",
        "~we need {heads}[ in {target}]",
        "project keys and values[ of {target}] to {heads}",
        "group the heads[ of {target}] so that there are {heads}",
    ),
    propose=_propose_kv("can"),
    refuse=(
        _propose_kv("cannot"),
        _propose_kv("cannot"),
        _propose_kv("fused"),
        out_of_range("kv_heads", lambda rng: {"heads": _kv_phrases(rng.choice((1, 2, 4)))}),
        _no_attention("kv_heads", "kv"),
    ),
)
MQA = Intent(
    name="gqa_to_mqa",
    reading="resize",
    seen=(
        "use multi-query attention[ in {target}]",
        "use (MQA|multi query attention)[ (in|for) {target}]",
        "(convert|turn|change) the attention[ (of|in) {target}] (to|into) (multi-query attention|MQA)",
        "make the attention[ (of|in) {target}] multi-query",
        "~{target}: (multi-query attention|MQA)",
        "~(MQA|multi-query attention)[ (in|for) {target}]",
        "switch[ {target}] to (MQA|multi-query attention)",
        "replace (multi-head|grouped-query|grouped) attention[ (of|in) {target}] (by|with) (multi-query attention|MQA)",
        "~(MQA|multi-query attention) instead of (GQA|multi-head attention)[ in {target}]",
        "share one key/value head among all query heads[ (of|in) {target}]",
        "let all query heads[ (of|in) {target}] share (one|a single) key and value head",
        "move[ {target}] (over |)to multi-query attention",
    ),
    unseen=(
        "reduce keys and values[ (of|in) {target}] to (one|a single) head",
        "~all heads[ (of|in) {target}] should read the same keys and values",
        "collapse the kv heads[ (of|in) {target}] into one",
        "~a lone key/value head[ (in|for) {target}] is enough",
    ),
    propose=_propose_kv("mqa"),
    refuse=(_propose_kv("mqa_fused"), out_of_range("gqa_to_mqa", lambda _: {}), _no_attention("gqa_to_mqa")),
    weight=0.5,
)

HEADS = (NUM_HEADS, KV_HEADS, MQA)
