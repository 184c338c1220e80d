"""Self-attention that scales hierarchically: keys and values pooled by 1, 2, 4 ... level by level."""

import random
from dataclasses import replace

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.attention import _no_attention, branch_fits, query_width
from genmad.intents.draft import Draft, Intent, layer_draft, out_of_range, target_or_all
from genmad.intents.phrasing import Phrases
from genmad.intents.primitives import is_causal, plain_attention
from genmad.intents.roles import BlockRoles
from genmad.intents.targets import count
from genmad.intents.writing import Number, ScriptWriter, edit_layers

DEFAULT_LEVELS, DEFAULT_POOL = 3, 2
Levels = tuple[int | None, int | None]


def _sizes(levels: int | None, pool: int | None) -> dict[str, Number]:
    return {k: Number.of(v) for k, v in (("levels", levels), ("pool", pool)) if v is not None}


def add_hierarchy(writer: ScriptWriter, roles: BlockRoles, levels: int | None, pool: int | None) -> None:
    """A second attention over pooled keys beside the layer's own, added where that ends."""
    role = roles.own
    assert role is not None
    like = role.source if roles.block.types[role.source].shape[-1] == query_width(roles, role) else role.q
    q, k, v = (writer.add("Linear", role.source, out_features=Number("channels", like)) for _ in range(3))
    causal = {"causal": True} if is_causal(roles) else {}
    heads = Number("like", role.node)
    mixed = writer.add("HierarchicalAttention", q, k, v, num_heads=heads, **_sizes(levels, pool), **causal)
    out = writer.add("Linear", mixed, out_features=Number("channels", role.out))
    writer.swap_uses(role.out, writer.add("Add", role.out, out))


def put_hierarchy(writer: ScriptWriter, roles: BlockRoles, levels: int | None, pool: int | None) -> None:
    assert roles.own is not None
    writer.put(roles.own.node, "HierarchicalAttention", **_sizes(levels, pool))


def _levels(rng: random.Random) -> tuple[Levels, dict[str, Phrases]]:
    levels = rng.choice((2, 3, 4, 5, 6)) if rng.random() < 0.4 else None
    pool = rng.choice((2, 3, 4, 8)) if rng.random() < 0.2 else None
    if levels is None and pool is None:
        return (None, None), {}
    seen, unseen = [], []
    if levels:
        seen.append(f"({count(levels)} levels|{count(levels)} pooling levels|levels={levels}|{count(levels)} scales)")
        unseen.append(f"{levels} resolutions")
    if pool:
        seen.append(f"(pooling by {pool}|a pool of {pool}|pool={pool}|a pooling factor of {pool})")
        unseen.append(f"blocks that grow by {pool}")
    return (levels, pool), {"size": Phrases((" and ".join(seen),), (" and ".join(unseen),))}


def _branches(anatomy: Anatomy, layer: Layer) -> bool:
    return branch_fits(anatomy, layer) and plain_attention(anatomy, layer)


def _propose_branch(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda layer: _branches(anatomy, layer), 0.1)
    if target is None:
        return None
    (levels, pool), slots = _levels(rng)
    draft = layer_draft(
        "hierarchical_branch", anatomy, target, lambda w, r: add_hierarchy(w, r, levels, pool),
        values={"levels": levels, "pool": pool}, slots=slots, say_target=said,
    )  # fmt: skip
    layers = target.layers
    return replace(
        draft, other=lambda writer: edit_layers(writer, anatomy, layers, lambda w, r: put_hierarchy(w, r, levels, pool))
    )


def _propose_convert(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda layer: plain_attention(anatomy, layer), 0.1)
    if target is None:
        return None
    (levels, pool), slots = _levels(rng)
    return layer_draft(
        "hierarchical_convert", anatomy, target, lambda w, r: put_hierarchy(w, r, levels, pool),
        values={"levels": levels, "pool": pool}, slots=slots, say_target=said,
    )  # fmt: skip


_IT = "(hierarchical|multi-scale|multi-resolution) (self-attention|attention)"
_SCALES = "(self attention|self-attention|attention) that scales hierarchically"
HIERARCHICAL_BRANCH = Intent(
    name="hierarchical_branch",
    reading="branch",
    seen=(
        f"add {_SCALES}[ (to|in) {{target}}][ with {{size}}]",
        f"add (a |){_SCALES}[ (to|in) {{target}}][, {{size}}]",
        f"add {_IT}[ (to|in) {{target}}][ with {{size}}]",
        f"add (a |an extra |)branch of {_IT}[ (to|in) {{target}}][ with {{size}}]",
        f"(insert|attach) {_IT} (beside|next to|in parallel to) the attention[ (of|in) {{target}}][ with {{size}}]",
        f"give {{target}} {_SCALES}[ with {{size}}]",
        f"give {{target}} an (additional|extra) {_IT}[ with {{size}}]",
        f"extend {{target}} (with|by) {_IT}[ <{{size}}>]",
        f"augment {{target}} with {_SCALES}[, {{size}}]",
        f"~{{target}}: add {_IT}[, {{size}}]",
        f"~new {_IT} branch[ (in|for) {{target}}][, {{size}}]",
        f"put {_IT} over pooled keys beside the (own |existing |)attention[ of {{target}}][ with {{size}}]",
        f"introduce (a branch with |){_SCALES}[ in {{target}}][ with {{size}}]",
        f"(place|build) a parallel {_IT} branch (into|in) {{target}}[ with {{size}}]",
        f"~I want to add {_SCALES}[ to {{target}}][, {{size}}]",
        f"~(could|can) you add {_IT}[ to {{target}}][ with {{size}}]?",
        "let {target} also attend to pooled keys at several levels[, {size}]",
        "add attention over pooled keys[ (to|in) {target}][ with {size}]",
        f"?~{_SCALES}[ (in|for) {{target}}][, {{size}}]",
        f"?use {_SCALES}[ (in|for) {{target}}][ with {{size}}]",
        f"?~{_IT}[ (in|for) {{target}}][, {{size}}]",
        f"equip {{target}} with an additional {_SCALES}[ with {{size}}]",
    ),
    unseen=(
        "complement the attention[ of {target}] by one that scales hierarchically[ with {size}]",
        "~besides its own attention {target} should get a pyramid of pooled keys[, {size}]",
        "supplement {target} with coarse-to-fine attention[ with {size}]",
        "mount a second attention that pools its keys per level[ (in|onto) {target}][, {size}]",
        "~we also need attention at several resolutions[ in {target}][, {size}]",
        "let a hierarchy of pooled keys run alongside the attention[ (of|in) {target}][, {size}]",
    ),
    propose=_propose_branch,
    refuse=(
        out_of_range("hierarchical_branch", lambda rng: _levels(rng)[1]),
        _no_attention("hierarchical_branch"),
    ),
    other=("convert", 0.15, 0.5),
    weight=1.6,
    combines=False,
)
HIERARCHICAL_CONVERT = Intent(
    name="hierarchical_convert",
    reading="convert",
    seen=(
        "make the (attention|self-attention)[ (of|in) {target}] (hierarchical|multi-scale)[ with {size}]",
        f"(convert|turn|change) the attention[ (of|in) {{target}}] (to|into) {_IT}[ with {{size}}]",
        f"replace the attention[ (of|in) {{target}}] (by|with) {_IT}[ with {{size}}]",
        f"replace the attention[ (of|in) {{target}}] (by|with) {_SCALES}[, {{size}}]",
        f"use {_IT} instead of (full |plain |)attention[ in {{target}}][ with {{size}}]",
        f"~{_IT} instead of (full|plain) attention[ in {{target}}][, {{size}}]",
        "let the attention[ (of|in) {target}] scale hierarchically[ with {size}]",
        f"(swap|exchange) the attention[ (of|in) {{target}}] for {_IT}[ with {{size}}]",
        f"switch[ {{target}}] to {_IT}[ with {{size}}]",
        "~{target}: make the attention (hierarchical|multi-scale)[, {size}]",
        "pool the keys and values[ (of|in) {target}] hierarchically[ with {size}]",
        "let the attention[ (of|in) {target}] read pooled keys and values level by level[, {size}]",
        "~the attention[ (of|in) {target}] should (be|become) (hierarchical|multi-scale)[ with {size}]",
        "~the attention[ (of|in) {target}] should scale hierarchically[, {size}]",
        "transform the attention[ (of|in) {target}] into one that scales hierarchically[ with {size}]",
        f"put {_IT} in place of the attention[ (of|in) {{target}}][ with {{size}}]",
        "~I'd like the attention[ (of|in) {target}] to be hierarchical[ with {size}]",
        "~(could|can) you make the attention[ (of|in) {target}] hierarchical[ with {size}]?",
        f"make {{target}} use {_IT} rather than its own[, {{size}}]",
        f"move[ {{target}}] (over |)to {_IT}[, {{size}}]",
    ),
    unseen=(
        "have the attention[ (of|in) {target}] work on a pyramid of keys[ with {size}]",
        "~attention[ (of|in) {target}] in a hierarchy of resolutions[, {size}]",
        f"trade plain attention for {_SCALES}[ in {{target}}][, {{size}}]",
        "arrange the keys[ of {target}] in pooled levels[, {size}]",
        f"substitute {_IT} for the present attention[ (of|in) {{target}}][, {{size}}]",
    ),
    propose=_propose_convert,
    refuse=(
        out_of_range("hierarchical_convert", lambda rng: _levels(rng)[1]),
        _no_attention("hierarchical_convert"),
    ),
    weight=0.8,
    combines=False,
)

HIERARCHY = (HIERARCHICAL_BRANCH, HIERARCHICAL_CONVERT)
