"""One attribute of attention, norms or rotary tables set to a value: masks, factors, epsilons."""

import random
from collections.abc import Callable

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.attention import _no_attention, own_attention
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
from genmad.intents.frames import setting_frames
from genmad.intents.phrasing import Phrases
from genmad.intents.primitives import plain_attention
from genmad.intents.roles import NORMS, BlockRoles
from genmad.intents.targets import pick_target
from genmad.intents.types import Request
from genmad.intents.writing import Number, ScriptWriter, edit_blocks
from genmad.ir.graph import Node


def _causal_now(anatomy: Anatomy, layer: Layer) -> bool:
    roles = anatomy.roles(layer.block)
    assert roles.own is not None
    return bool(roles.block.by_name[roles.own.node].attr_map["causal"])


def set_causal(writer: ScriptWriter, roles: BlockRoles, causal: bool) -> None:
    assert roles.own is not None
    if roles.block.by_name[roles.own.node].attr_map["causal"] != causal:
        writer.set(roles.own.node, causal=causal)


def _propose_causal(name: str, causal: bool) -> Propose:
    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        target, said = target_or_all(anatomy, rng, lambda layer: plain_attention(anatomy, layer), 0.35)
        if target is None:
            return None
        draft = layer_draft(
            name, anatomy, target, lambda w, r: set_causal(w, r, causal), values={"causal": causal}, slots={},
            say_target=said,
        )  # fmt: skip
        same = all(_causal_now(anatomy, layer) == causal for layer in target.layers)
        if same and rng.random() < 0.7:
            return None
        return refused(draft, "already_so") if same else draft

    return propose


_SELF = "(attention|self-attention|self attention)"
CAUSAL = Intent(
    name="make_causal",
    reading="convert",
    seen=(
        f"make the {_SELF}[ (of|in) {{target}}] causal",
        f"make the {_SELF}[ (of|in) {{target}}] (autoregressive|unidirectional|left-to-right)",
        "use (a |)causal (mask|masking)[ in {target}]",
        "(add|apply) a causal mask[ (to|in) {target}]",
        "use causal attention[ in {target}]",
        "~causal attention[ (in|for) {target}]",
        "~{target}: causal attention",
        f"(convert|turn|change) the {_SELF}[ (of|in) {{target}}] (to|into) causal attention",
        "mask the future[ in {target}]",
        "do not let[ {target}] look at (the future|future tokens|later positions)",
        f"hide (the future|later tokens) from the {_SELF}[ (of|in) {{target}}]",
        f"let the {_SELF}[ (of|in) {{target}}] see only the past",
        "replace (bidirectional|full) attention[ (of|in) {target}] (by|with) causal attention",
        f"~the {_SELF}[ (of|in) {{target}}] (should|must) be causal",
        "~I want causal (attention|masking)[ in {target}]",
        f"~(could|can) you make the {_SELF}[ (of|in) {{target}}] causal?",
        "switch[ {target}] to (causal|masked|left-to-right) attention",
        "(turn|switch) on (causality|the causal mask)[ in {target}]",
        f"restrict the {_SELF}[ (of|in) {{target}}] to earlier positions",
        f"set causal=True (in|for) the {_SELF}[ of {{target}}]",
        "make {target} attend (causally|only to the left)",
    ),
    unseen=(
        f"forbid the {_SELF}[ (of|in) {{target}}] to peek ahead",
        "~each token[ in {target}] should depend on its predecessors only",
        "impose a triangular mask[ on {target}]",
        f"let the {_SELF}[ (of|in) {{target}}] run like a decoder",
        "~no look-ahead[ in {target}]",
    ),
    propose=_propose_causal("make_causal", True),
    refuse=(out_of_range("make_causal", lambda _: {}), _no_attention("make_causal")),
    weight=0.8,
)
BIDIRECTIONAL = Intent(
    name="make_bidirectional",
    reading="convert",
    seen=(
        f"make the {_SELF}[ (of|in) {{target}}] bidirectional",
        f"make the {_SELF}[ (of|in) {{target}}] (non-causal|noncausal)",
        "(remove|drop|delete) the causal mask[ (of|in|from) {target}]",
        "use bidirectional attention[ in {target}]",
        "use no causal mask[ in {target}]",
        "~bidirectional attention[ (in|for) {target}]",
        "~{target}: bidirectional attention",
        f"(convert|turn|change) the {_SELF}[ (of|in) {{target}}] (to|into) bidirectional attention",
        "let[ {target}] look at (the future|future tokens|later positions) too",
        f"let the {_SELF}[ (of|in) {{target}}] see both (sides|directions)",
        f"let the {_SELF}[ (of|in) {{target}}] attend in both directions",
        "replace causal attention[ (of|in) {target}] (by|with) bidirectional attention",
        f"~the {_SELF}[ (of|in) {{target}}] (should|must) be bidirectional",
        "~I want bidirectional attention[ in {target}]",
        f"~(could|can) you make the {_SELF}[ (of|in) {{target}}] bidirectional?",
        "switch[ {target}] to (bidirectional|non-causal|encoder-style) attention",
        "(turn|switch) off (causality|the causal mask|causal masking)[ in {target}]",
        f"set causal=False (in|for) the {_SELF}[ of {{target}}]",
        "make {target} attend (to both sides|bidirectionally)",
        f"free the {_SELF}[ (of|in) {{target}}] from its causal mask",
        "unmask (the future|future positions)[ in {target}]",
    ),
    unseen=(
        f"allow the {_SELF}[ (of|in) {{target}}] to peek ahead",
        "~each token[ in {target}] should depend on all others, before and behind",
        "lift the triangular mask[ (of|from) {target}]",
        f"let the {_SELF}[ (of|in) {{target}}] run like an encoder",
        "~look-ahead is fine[ in {target}]",
    ),
    propose=_propose_causal("make_bidirectional", False),
    refuse=(out_of_range("make_bidirectional", lambda _: {}), _no_attention("make_bidirectional")),
    weight=0.8,
)

SCALES = ((1, 1), (1, 2), (1, 4), (1, 8), (1, 10), (1, 16), (1, 5), (1, 20), (1, 32), (1, 64), (2, 1), (1, 12))


def _decimal(times: int, over: int) -> Phrases:
    seen = [f"{times / over:g}", f"{times / over:g}"]
    seen += [f"{times}/{over}"] if over > 1 else [f"{times}.0"]
    return Phrases(tuple(seen), (f"a value of {times / over:g}",))


def _scale(rng: random.Random) -> tuple[Number, float, dict[str, Phrases]]:
    times, over = rng.choice(SCALES)
    return Number("int", literal=times, over=over), times / over, {"scale": _decimal(times, over)}


def set_attention(writer: ScriptWriter, roles: BlockRoles, name: str, number: Number, value: float) -> None:
    assert roles.own is not None
    if roles.block.by_name[roles.own.node].attr_map[name] != value:
        writer.set(roles.own.node, **{name: number})


def _propose_scale(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda x: own_attention(anatomy, x) is not None, 0.25)
    if target is None:
        return None
    number, value, slots = _scale(rng)
    draft = layer_draft(
        "attention_scale", anatomy, target, lambda w, r: set_attention(w, r, "scale", number, value),
        values={"scale": value}, slots=slots, say_target=said,
    )  # fmt: skip
    now = [r.block.by_name[r.own.node].attr_map["scale"] for x in target.layers if (r := anatomy.roles(x.block)).own]
    return refused(draft, "already_so") if all(v == value for v in now) else draft


_SCALE_SEEN, _SCALE_UNSEEN = setting_frames("(softmax scale|scale of the attention)", "{scale}")
ATTENTION_SCALE = Intent(
    name="attention_scale",
    reading="convert",
    seen=(
        *_SCALE_SEEN,
        "scale the attention (scores|logits)[ (of|in) {target}] by {scale}",
        "multiply the attention (scores|logits)[ (of|in) {target}] by {scale}",
        "use {scale} as the softmax scale[ (of|in) {target}]",
        "set the (softmax scale|scaling factor of the attention)[ (of|in) {target}] to {scale}",
        "~scale={scale} in the attention[ of {target}]",
    ),
    unseen=(*_SCALE_UNSEEN, "weigh the dot products[ (of|in) {target}] with {scale}"),
    propose=_propose_scale,
    refuse=(
        out_of_range("attention_scale", lambda rng: _scale(rng)[2]),
        lambda anatomy, rng: _with_slots(_no_attention("attention_scale"), _scale(rng)[2])(anatomy, rng),
    ),
    weight=0.7,
)


def _with_slots(refuse: Propose, slots: dict[str, Phrases]) -> Propose:
    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        draft = refuse(anatomy, rng)
        if draft is None:
            return None
        return Draft(request=draft.request, slots={**draft.slots, **slots}, build=None, exact=draft.exact)

    return propose


EPSILONS = (3, 4, 5, 6)


def _eps(rng: random.Random) -> tuple[Number, float, dict[str, Phrases]]:
    power = rng.choice(EPSILONS)
    seen = (f"1e-{power}", f"1e-{power}", f"1e-0{power}", f"10^-{power}", f"0.{'0' * (power - 1)}1")
    number = Number("int", literal=1, over=10**power)
    return number, 1 / 10**power, {"eps": Phrases(seen, (f"ten to the minus {power}", f"1.0e-{power}"))}


def _has_eps(node: Node) -> bool:
    return node.op in NORMS


def set_eps(writer: ScriptWriter, roles: BlockRoles, number: Number, value: float) -> None:
    for node in roles.norms:
        if node.attr_map["eps"] != value:
            writer.set(node.name, eps=number)


def _propose_eps(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    number, value, slots = _eps(rng)
    edit: Callable[[ScriptWriter, BlockRoles], None] = lambda w, r: set_eps(w, r, number, value)  # noqa: E731
    if rng.random() < 0.4 or not anatomy.layers:
        nodes = [p for p in anatomy.places if not p.node.is_call and _has_eps(p.node)]
        if not nodes:
            return None
        same = all(p.node.attr_map["eps"] == value for p in nodes)
        request = Request(
            intent="norm_eps", nodes=tuple(p.path for p in nodes), values=(("eps", value),),
            refusal="already_so" if same else "",
        )  # fmt: skip

        def build(writer: ScriptWriter) -> None:
            edit_blocks(writer, anatomy, lambda n: _has_eps(n) and n.attr_map["eps"] != value, edit)

        return Draft(request=request, slots=slots, build=None if same else build)
    target = pick_target(anatomy, rng, lambda x: bool(anatomy.roles(x.block).norms))
    if target is None:
        return None
    draft = layer_draft("norm_eps", anatomy, target, edit, values={"eps": value}, slots=slots)
    found = [n for x in target.layers for n in anatomy.roles(x.block).norms]
    return refused(draft, "already_so") if all(n.attr_map["eps"] == value for n in found) else draft


_EPS_SEEN, _EPS_UNSEEN = setting_frames("(norm epsilon|normalization epsilon|norm eps|epsilon of the norms)", "{eps}")
NORM_EPS = Intent(
    name="norm_eps",
    reading="convert",
    seen=(
        *_EPS_SEEN,
        "use eps={eps} in the norms[ of {target}]",
        "set eps[ (of|in) {target}] to {eps}",
        "~eps={eps}[ (in|for) {target}]",
        "~layer_norm_eps {eps}[ (in|for) {target}]",
        "let the norms[ (of|in) {target}] use an epsilon of {eps}",
    ),
    unseen=(*_EPS_UNSEEN, "guard the norms[ (of|in) {target}] with {eps} under the root"),
    propose=_propose_eps,
    refuse=(out_of_range("norm_eps", lambda rng: _eps(rng)[2]),),
    weight=0.7,
)

FACTORS = ((2, 1), (1, 2), (3, 2), (5, 4), (6, 5), (11, 10), (13, 10), (4, 5), (9, 10), (3, 4))


def _tables(anatomy: Anatomy) -> list[Node]:
    return [p.node for p in anatomy.places if p.node.op == "RotaryTable"]


def _propose_rope_scale(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    tables = _tables(anatomy)
    times, over = rng.choice(FACTORS)
    slots = {"factor": _decimal(times, over)}
    if not tables:
        return None
    number, value = Number("int", literal=times, over=over), times / over
    nodes = tuple(p.path for p in anatomy.places if p.node.op == "RotaryTable")
    same = all(n.attr_map["scaling"] == value for n in tables)
    request = Request(
        intent="rope_scaling", nodes=nodes, values=(("scaling", value),), refusal="already_so" if same else ""
    )

    def edit(writer: ScriptWriter, roles: BlockRoles) -> None:
        for node in roles.nodes("RotaryTable"):
            if node.attr_map["scaling"] != value:
                writer.set(node.name, scaling=number)

    def build(writer: ScriptWriter) -> None:
        edit_blocks(writer, anatomy, lambda n: n.op == "RotaryTable" and n.attr_map["scaling"] != value, edit)

    return Draft(request=request, slots=slots, build=None if same else build)


def _no_table(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    if _tables(anatomy) or any(n.op == "RotaryEmbedding" for b in anatomy.graph.all_blocks for n in b.nodes):
        return None
    return refusal_draft("rope_scaling", "no_such_target", {"factor": _decimal(*rng.choice(FACTORS))})


_ROPE = "(RoPE|rope|rotary|rotary embedding)"
ROPE_SCALING = Intent(
    name="rope_scaling",
    reading="convert",
    seen=(
        f"set the {_ROPE} scaling to {{factor}}",
        f"(change|adjust) the {_ROPE} scaling to {{factor}}",
        f"use a {_ROPE} (scaling|factor) of {{factor}}",
        "scale the rotary (table|tables|cos and sin) by {factor}",
        "multiply cos and sin of the rotary (table|embedding) by {factor}",
        f"~{_ROPE} scaling {{factor}}",
        f"~{_ROPE} attention factor {{factor}}",
        "set the (YaRN|yarn) attention factor to {factor}",
        f"make the {_ROPE} scaling {{factor}}",
        f"give the {_ROPE} table a scaling of {{factor}}",
        f"switch to a {_ROPE} scaling of {{factor}}",
        f"let the {_ROPE} tables be scaled by {{factor}}",
        f"~the {_ROPE} scaling (should|must) be {{factor}}",
        f"~I (want|need) a {_ROPE} scaling of {{factor}}",
        f"~(could|can) you set the {_ROPE} scaling to {{factor}}?",
        "apply a factor of {factor} to the rotary table",
        "~rope scaling = {factor}",
        "set mscale to {factor}",
        f"bring the {_ROPE} scaling to {{factor}}",
        f"have a {_ROPE} scaling of {{factor}}",
        f"configure the {_ROPE} tables with scaling {{factor}}",
    ),
    unseen=(
        f"pick {{factor}} as the {_ROPE} scaling",
        "~the rotary table needs a factor of {factor}",
        f"alter the {_ROPE} scaling so that it equals {{factor}}",
        "stretch the amplitude of cos and sin by {factor}",
        f"choose {{factor}} for the scaling of {_ROPE}",
    ),
    propose=_propose_rope_scale,
    refuse=(_no_table,),
    weight=0.5,
)

SETTINGS = (CAUSAL, BIDIRECTIONAL, ATTENTION_SCALE, NORM_EPS, ROPE_SCALING)
