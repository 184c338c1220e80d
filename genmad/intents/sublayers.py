"""How a layer is put together: attention and MLP in parallel, sandwiched branches, normalised queries and keys."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.attention import _no_attention, own_attention
from genmad.intents.draft import Draft, Intent, layer_draft, out_of_range, refused, target_or_all
from genmad.intents.frames import removal_frames
from genmad.intents.norm import NORM_NAMES
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import NORMS, BlockRoles
from genmad.intents.targets import pick_target
from genmad.intents.writing import Number, ScriptWriter
from genmad.ir.graph import producer

_MLP = "(mlp|MLP|feed-forward|feed forward|ffn|FFN)"


@dataclass(frozen=True, slots=True)
class _Sequence:
    """A pre-norm layer whose feed-forward part reads, through a norm, what attention has been added to."""

    norm: str
    merged: str
    skip: str


def sequential(roles: BlockRoles) -> _Sequence | None:
    """The place at which attention and MLP stand one behind the other; None in other layers."""
    role = roles.own
    residual = roles.residual_of(role.out) if role is not None else None
    if residual is None or len(roles.mlps) != 1:
        return None
    norm = roles.block.by_name.get(producer(roles.mlps[0].source))
    if norm is None or norm.op not in NORMS or norm.inputs[0] != residual.node:
        return None
    second = roles.residual_of(roles.mlps[0].down)
    if second is None or second.skip != residual.node:
        return None
    return _Sequence(norm.name, residual.node, residual.skip)


def _is_parallel(roles: BlockRoles) -> bool:
    """Whether attention and MLP read one stream already."""
    role = roles.own
    residual = roles.residual_of(role.out) if role is not None else None
    if role is None or residual is None or len(roles.mlps) != 1:
        return False
    sources = [roles.mlps[0].source, role.source]
    stems = [n.inputs[0] if (n := roles.block.by_name.get(producer(v))) and n.op in NORMS else v for v in sources]
    return stems[0] == stems[1]


def make_parallel(writer: ScriptWriter, roles: BlockRoles) -> None:
    place = sequential(roles)
    assert place is not None
    writer.rewire(place.norm, 0, place.skip)


def _propose_parallel(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    def fits(layer: Layer) -> bool:
        roles = anatomy.roles(layer.block)
        return sequential(roles) is not None or _is_parallel(roles)

    target, said = target_or_all(anatomy, rng, fits, 0.2)
    if target is None:
        return None
    draft = layer_draft("parallel_block", anatomy, target, make_parallel, values={}, slots={}, say_target=said)
    done = [sequential(anatomy.roles(layer.block)) is None for layer in target.layers]
    if any(done):
        return refused(draft, "already_so") if all(done) else None
    return draft


def _refuse_parallel(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """Post-norm layers, and layers without both parts."""

    def fits(layer: Layer) -> bool:
        roles = anatomy.roles(layer.block)
        return sequential(roles) is None and not _is_parallel(roles)

    target = pick_target(anatomy, rng, fits)
    if target is None:
        return None
    draft = layer_draft("parallel_block", anatomy, target, make_parallel, values={}, slots={})
    return refused(draft, "not_applicable")


_BOTH = f"(the |)(attention|self-attention) and (the |)({_MLP[1:-1]})"
PARALLEL = Intent(
    name="parallel_block",
    reading="connect",
    seen=(
        f"run {_BOTH}[ (of|in) {{target}}] in parallel",
        f"make {_BOTH}[ (of|in) {{target}}] parallel",
        f"(put|place|compute) {_BOTH}[ (of|in) {{target}}] (in parallel|side by side)",
        "use (a |)parallel (block|blocks|layer|layers|formulation)[ in {target}]",
        "use the (GPT-J|PaLM|GPT-NeoX) style parallel (block|formulation)[ in {target}]",
        "~parallel (attention and MLP|blocks|attention and feed-forward)[ (in|for) {target}]",
        "~{target}: attention and mlp in parallel",
        f"(parallelise|parallelize) {_BOTH}[ (of|in) {{target}}]",
        "make {target} (a parallel block|parallel blocks)",
        "(convert|turn|change) {target} (to|into) (a parallel block|parallel blocks|the parallel form)",
        f"let {_BOTH}[ (of|in) {{target}}] read the same input",
        f"feed the same input to {_BOTH}[ (of|in) {{target}}]",
        f"let the {_MLP}[ (of|in) {{target}}] read the input of the layer instead of the attention result",
        f"~the {_MLP}[ (of|in) {{target}}] should run in parallel to the attention",
        f"connect the {_MLP}[ (of|in) {{target}}] to the block input",
        f"make the {_MLP}[ (of|in) {{target}}] independent of the attention",
        "~I want parallel (attention and MLP|blocks)[ in {target}]",
        f"~(could|can) you run {_BOTH}[ (of|in) {{target}}] in parallel?",
        f"have {_BOTH}[ (of|in) {{target}}] work at the same time",
        f"rewire the {_MLP}[ (of|in) {{target}}] to stand parallel to the attention",
        "switch[ {target}] to parallel (blocks|layers)",
    ),
    unseen=(
        f"~{_BOTH}[ (of|in) {{target}}] next to each other, not one after the other",
        f"let the {_MLP}[ (of|in) {{target}}] start from what the attention starts from",
        "arrange[ {target}] as in PaLM, both halves at once",
        f"bypass the attention on the way into the {_MLP}[ (of|in) {{target}}]",
        "~no more sequential sublayers[ in {target}], parallel ones",
    ),
    propose=_propose_parallel,
    refuse=(_refuse_parallel, out_of_range("parallel_block", lambda _: {}), _no_attention("parallel_block")),
    weight=0.8,
    combines=False,
)


def _ends(roles: BlockRoles) -> list[str]:
    """What attention and the last feed-forward part give, before it is added to the stream."""
    ends = [roles.own.out] if roles.own is not None else []
    return [*ends, *(mlp.down for mlp in roles.mlps[-1:])]


def _is_open(roles: BlockRoles, value: str) -> bool:
    """Whether what reads the value is no norm."""
    return all(roles.block.by_name[name].op not in NORMS for name, _ in roles.block.users[value])


def add_sandwich(writer: ScriptWriter, roles: BlockRoles, kind: str) -> None:
    for value in _ends(roles):
        writer.swap_uses(value, writer.add(kind, value))


def _propose_sandwich(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    def fits(layer: Layer) -> bool:
        roles = anatomy.roles(layer.block)
        return roles.own is not None and bool(roles.mlps) and all(_is_open(roles, v) for v in _ends(roles))

    target, said = target_or_all(anatomy, rng, fits, 0.2)
    if target is None:
        return None
    kind = rng.choice(("RMSNorm", "LayerNorm"))
    return layer_draft(
        "sandwich_norm", anatomy, target, lambda w, r: add_sandwich(w, r, kind), values={"norm": kind},
        slots={"new": NORM_NAMES[kind]}, say_target=said,
    )  # fmt: skip


_PARTS = "(attention and MLP|attention and mlp|both sublayers|attention and feed-forward)"
SANDWICH = Intent(
    name="sandwich_norm",
    reading="insert",
    seen=(
        "use sandwich norm <{new}>[ in {target}]",
        "use sandwich (norms|normalization) with {new}[ in {target}]",
        "add sandwich (norms|norm|normalization)[ (to|in) {target}] with {new}",
        f"add (a |){{new}} after {_PARTS}[ (of|in) {{target}}]",
        f"(insert|put|place) (a |){{new}} behind {_PARTS}[ (of|in) {{target}}]",
        f"normalize the outputs of {_PARTS}[ (of|in) {{target}}] with {{new}}",
        "~sandwich norm <{new}>[ (in|for) {target}]",
        "~{target}: sandwich {new}",
        "(sandwich|wrap) the sublayers[ of {target}] (with|in) {new}",
        "give {target} sandwich norms <{new}>",
        "use post-sublayer {new}[ in {target}] like Gemma 2",
        f"have (a |){{new}} after {_PARTS}[ in {{target}}]",
        "normalize every branch[ (of|in) {target}] with {new} before it is added",
        "add {new} before both residual additions[ (of|in) {target}]",
        f"follow {_PARTS}[ (of|in) {{target}}] (by|with) (a |){{new}}",
        "~I want sandwich norms[ in {target}], {new}",
        "~(could|can) you add sandwich {new}[ to {target}]?",
        "extend {target} with sandwich {new}",
        "apply {new} to each branch output[ (of|in) {target}]",
        "put {new} at the end of both branches[ (of|in) {target}]",
        "introduce sandwich norms[ in {target}] <{new}>",
    ),
    unseen=(
        "enclose both halves[ of {target}] between norms, using {new}",
        f"~{{new}} on the way out of {_PARTS}[ (of|in) {{target}}]",
        "let each branch[ of {target}] end in {new}",
        "~every branch[ (of|in) {target}] should close with {new}",
        "equip {target} with peri-layer norms <{new}>",
    ),
    propose=_propose_sandwich,
    refuse=(out_of_range("sandwich_norm", lambda _: {"new": NORM_NAMES["RMSNorm"]}),),
    weight=0.7,
    combines=False,
)

QK_NORMS: Mapping[str, Phrases] = {
    "RMSNorm": NORM_NAMES["RMSNorm"],
    "LayerNorm": NORM_NAMES["LayerNorm"],
    "L2Norm": say("L2 norm", "L2Norm", "l2 normalization", "unit length", unseen=("euclidean normalization",)),
}


def has_qk_norm(roles: BlockRoles) -> bool:
    """Whether a norm lies between the query projection and attention."""
    role = roles.own
    value = roles.block.by_name[role.node].inputs[0] if role is not None else ""
    for _ in range(12):
        node = roles.block.by_name.get(producer(value))
        if role is None or node is None or node.name == role.q or not node.inputs:
            return False
        if node.op in (*NORMS, "L2Norm"):
            return True
        value = node.inputs[0]
    return False


def add_qk_norm(writer: ScriptWriter, roles: BlockRoles, kind: str) -> None:
    assert roles.own is not None
    node = roles.block.by_name[roles.own.node]
    for slot in (0, 1):
        writer.rewire(node.name, slot, writer.add(kind, node.inputs[slot]))


def _propose_qk(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda x: own_attention(anatomy, x) is not None, 0.2)
    if target is None:
        return None
    kind = rng.choice(("RMSNorm", "RMSNorm", "LayerNorm", "L2Norm"))
    said_kind = kind != "RMSNorm" or rng.random() < 0.5
    draft = layer_draft(
        "qk_norm", anatomy, target, lambda w, r: add_qk_norm(w, r, kind), values={"norm": kind},
        slots={"new": QK_NORMS[kind]} if said_kind else {}, say_target=said,
    )  # fmt: skip
    done = [has_qk_norm(anatomy.roles(layer.block)) for layer in target.layers]
    if any(done):
        return refused(draft, "already_so") if all(done) else None
    return draft


_QK = "(queries and keys|the queries and (the |)keys|q and k|query and key)"
QK_NORM = Intent(
    name="qk_norm",
    reading="insert",
    seen=(
        "use (qk-norm|QK norm|qk norm|query-key normalization)[ in {target}][ with {new}]",
        "add (qk-norm|QK-norm|qk norm|query-key normalization)[ (to|in) {target}][ <{new}>]",
        "(normalize|normalise) the queries and keys[ (of|in) {target}][ with {new}]",
        f"(normalize|normalise) {_QK}[ (of|in) {{target}}] before (the |)attention[ with {{new}}]",
        f"(insert|put|place) a norm on {_QK}[ (of|in) {{target}}][, {{new}}]",
        "~(qk-norm|QK norm|qk norm)[ (in|for) {target}][, {new}]",
        "~{target}: (qk-norm|QK norm|normalize queries and keys)[, {new}]",
        "give the attention[ (of|in) {target}] (qk-norm|query-key norm)[ with {new}]",
        "give {target} (qk-norm|query-key normalization)[ <{new}>]",
        "apply a norm to queries and keys[ (of|in) {target}][, {new}]",
        "let the attention[ (of|in) {target}] normalize its queries and keys[ with {new}]",
        "extend the attention[ (of|in) {target}] with qk-norm[ <{new}>]",
        "introduce (query-key norm|qk-norm)[ in {target}][, {new}]",
        "~(queries and keys|q and k)[ (of|in) {target}] should be normalized[ with {new}]",
        "~I want (qk-norm|normalized queries and keys)[ in {target}][, {new}]",
        "~(could|can) you add qk-norm[ to {target}][ with {new}]?",
        "stabilise the attention[ (of|in) {target}] with qk-norm[ <{new}>]",
        "use normalized queries and keys[ in {target}][, {new}]",
        "put norms in front of the dot product[ (of|in) {target}][, {new}]",
        "have the attention[ (of|in) {target}] use qk-norm[ with {new}]",
        "norm queries and keys[ (of|in) {target}] as (Qwen3|OLMo 2) does[, {new}]",
    ),
    unseen=(
        "rescale queries and keys[ of {target}] by a norm of their own[, {new}]",
        "~query-key norm is missing[ in {target}], add it[, {new}]",
        "bound the dot products[ (of|in) {target}] by normalizing both sides[ with {new}]",
        "bring queries and keys[ (of|in) {target}] to unit scale[ with {new}]",
        "equip the attention[ (of|in) {target}] with norms on both operands[, {new}]",
    ),
    propose=_propose_qk,
    refuse=(out_of_range("qk_norm", lambda _: {}), _no_attention("qk_norm")),
    weight=0.9,
)


def _gated_value(roles: BlockRoles) -> str:
    """What the output projection of attention reads, [B, S, D]; "" where there is none."""
    node = roles.block.by_name.get(roles.own.out) if roles.own is not None else None
    if node is None or node.op not in ("Linear", "LoRALinear") or roles.own is None:
        return ""
    ranks = {roles.block.types[v].rank for v in (node.inputs[0], roles.own.source)}
    return node.inputs[0] if ranks == {3} else ""


def add_gate(writer: ScriptWriter, roles: BlockRoles) -> None:
    assert roles.own is not None
    value = _gated_value(roles)
    gate = writer.add("Sigmoid", writer.add("Linear", roles.own.source, out_features=Number("channels", value)))
    writer.swap_uses(value, writer.add("Mul", value, gate))


def _propose_gate(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda x: bool(_gated_value(anatomy.roles(x.block))), 0.2)
    if target is None:
        return None
    return layer_draft("attention_gate", anatomy, target, add_gate, values={}, slots={}, say_target=said)


ATTENTION_GATE = Intent(
    name="attention_gate",
    reading="insert",
    seen=(
        "gate the attention (output|result)[ (of|in) {target}] with a sigmoid",
        "add (a |an output )gate to the attention[ (of|in) {target}]",
        "add a (learned |)sigmoid gate (after|behind) the attention[ (of|in) {target}]",
        "use gated attention[ in {target}]",
        "(convert|turn|change) the attention[ (of|in) {target}] (to|into) gated attention",
        "make the attention[ (of|in) {target}] gated",
        "~gated attention[ (in|for) {target}]",
        "~{target}: gate the attention output",
        "(put|insert|place) a gate on the attention output[ (of|in) {target}]",
        "multiply the attention (output|result)[ (of|in) {target}] by a sigmoid gate",
        "give the attention[ (of|in) {target}] an output gate",
        "let a sigmoid gate control the attention output[ (of|in) {target}]",
        "extend the attention[ (of|in) {target}] with an output gate",
        "introduce (an attention|an output) gate[ in {target}]",
        "~the attention[ (of|in) {target}] should have an output gate",
        "~I want the attention output[ (of|in) {target}] gated",
        "~(could|can) you gate the attention[ (of|in) {target}]?",
        "gate the heads[ (of|in) {target}] with a sigmoid of the input",
        "apply an input-dependent gate to the attention output[ (of|in) {target}]",
        "have a gate between attention and its output projection[ in {target}]",
        "use a sigmoid output gate for the attention[ (of|in) {target}]",
    ),
    unseen=(
        "let the input decide how much of the attention passes[ in {target}]",
        "modulate the attention result[ (of|in) {target}] by a learned sigmoid",
        "~output gating for the attention[ (of|in) {target}] as in Qwen3-Next",
        "equip the attention[ (of|in) {target}] with multiplicative gating",
        "weight what attention gives[ in {target}] with a gate computed from the input",
    ),
    propose=_propose_gate,
    refuse=(out_of_range("attention_gate", lambda _: {}), _no_attention("attention_gate")),
    weight=0.6,
    combines=False,
)


def drop_rotary(writer: ScriptWriter, roles: BlockRoles) -> None:
    assert roles.own is not None
    for name in dict.fromkeys(roles.own.rotary):
        if name:
            writer.remove(name)


def _propose_no_rope(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    def fits(layer: Layer) -> bool:
        role = own_attention(anatomy, layer)
        return role is not None and all(role.rotary)

    target, said = target_or_all(anatomy, rng, fits, 0.2)
    if target is None:
        return None
    return layer_draft("remove_rope", anatomy, target, drop_rotary, values={}, slots={}, say_target=said)


def _no_rotary(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """A model without rotary embeddings."""
    if any(n.op == "RotaryEmbedding" for b in anatomy.graph.all_blocks for n in b.nodes):
        return None
    target = pick_target(anatomy, rng, lambda x: own_attention(anatomy, x) is not None)
    if target is None:
        return None
    draft = layer_draft("remove_rope", anatomy, target, drop_rotary, values={}, slots={}, say_target=rng.random() < 0.6)
    return refused(draft, "no_such_target")


_ROPE_SEEN, _ROPE_UNSEEN = removal_frames("the (rotary embedding|rotary embeddings|rotary position embedding|RoPE)")
REMOVE_ROPE = Intent(
    name="remove_rope",
    reading="remove",
    seen=(
        *_ROPE_SEEN,
        "use NoPE[ in {target}]",
        "use no (rotary embeddings|RoPE)[ in {target}]",
        "(switch|turn) off RoPE[ in {target}]",
        "~no (RoPE|rotary embedding)[ in {target}]",
        "make the attention[ (of|in) {target}] position-free <no RoPE>",
    ),
    unseen=(*_ROPE_UNSEEN, "do not rotate queries and keys[ (of|in) {target}]"),
    propose=_propose_no_rope,
    refuse=(_no_rotary, _no_rotary, out_of_range("remove_rope", lambda _: {})),
    weight=0.8,
)

SUBLAYERS = (PARALLEL, SANDWICH, QK_NORM, ATTENTION_GATE, REMOVE_ROPE)
