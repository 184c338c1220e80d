"""Parts in the manner of known models: gated feed-forward layers, and the recipe of Llama and others as a whole."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.draft import Draft, Intent, layer_draft, out_of_range, refused, target_or_all
from genmad.intents.frames import exchange_frames
from genmad.intents.heads import _heads, _kv_heads, _kv_phrases, _separate, set_kv_heads
from genmad.intents.mlp import _no_mlp
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import BlockRoles, MlpRole
from genmad.intents.types import Request
from genmad.intents.writing import Number, ScriptWriter, edit_blocks
from genmad.ir.graph import Node

GATES: Mapping[str, tuple[str, Phrases]] = {
    "silu": ("Silu", say("SwiGLU", "swiglu", "(a |)SwiGLU", "(a |)SiLU-gated", "Swish-gated", unseen=("gated SiLU",))),
    "gelu": ("Gelu", say("GeGLU", "geglu", "GEGLU", "GELU-gated", unseen=("gated GELU",))),
    "relu": ("Relu", say("ReGLU", "reglu", "ReLU-gated", unseen=("gated ReLU",))),
    "sigmoid": ("Sigmoid", say("GLU", "sigmoid-gated", "plain GLU", unseen=("gated by a sigmoid",))),
}


def ungated(roles: BlockRoles) -> list[MlpRole]:
    """The feed-forward parts of two linears with nothing but an activation between them."""

    def is_plain(mlp: MlpRole) -> bool:
        return not mlp.product and mlp.act != mlp.down and mlp.act in roles.block.by_name[mlp.down].inputs

    return [mlp for mlp in roles.mlps if is_plain(mlp)]


def gate_mlp(writer: ScriptWriter, roles: BlockRoles, mlp: MlpRole, activation: str) -> None:
    """The activation becomes that of a gate; what it gates is a new projection of the same input."""
    op, up = GATES[activation][0], roles.block.by_name[mlp.up[0]]
    if roles.block.by_name[mlp.act].op != op:
        writer.put(mlp.act, op)
    bias = {} if up.attr_map["bias"] else {"bias": False}
    value = writer.add("Linear", mlp.source, out_features=Number("like", up.name), **bias)
    writer.swap_uses(mlp.act, writer.add("Mul", mlp.act, value))


def gate_mlps(writer: ScriptWriter, roles: BlockRoles, activation: str) -> None:
    for mlp in ungated(roles):
        gate_mlp(writer, roles, mlp, activation)


def _is_gated(roles: BlockRoles, activation: str) -> bool:
    """Whether every feed-forward part is gated by that activation already."""
    op = GATES[activation][0]
    for mlp in roles.mlps:
        node = roles.block.by_name[mlp.act]
        gated = (node.op == op and mlp.product) or (node.op == "GatedMLP" and node.attr_map["activation"] == activation)
        if not gated:
            return False
    return bool(roles.mlps)


def _propose_gated(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    activation = rng.choice(("silu", "silu", "silu", "gelu", "gelu", "relu", "sigmoid"))

    def fits(layer: Layer) -> bool:
        roles = anatomy.roles(layer.block)
        return bool(roles.mlps) and (len(ungated(roles)) == len(roles.mlps) or _is_gated(roles, activation))

    target, said = target_or_all(anatomy, rng, fits, 0.25)
    if target is None:
        return None
    draft = layer_draft(
        "gated_mlp", anatomy, target, lambda w, r: gate_mlps(w, r, activation), values={"activation": activation},
        slots={"glu": GATES[activation][1]}, say_target=said,
    )  # fmt: skip
    done = [not ungated(anatomy.roles(layer.block)) for layer in target.layers]
    if any(done):
        return refused(draft, "already_so") if all(done) and rng.random() < 0.3 else None
    return draft


_MLP = "(mlp|MLP|feed-forward|feed forward|ffn|FFN)"
_MLPS = "(mlps|MLPs|feed-forwards|ffns|FFNs|feed-forward layers|feed-forward blocks)"
_GLU_SEEN, _GLU_UNSEEN = exchange_frames(f"the {_MLP}", "{glu} " + _MLP)
GATED_MLP = Intent(
    name="gated_mlp",
    reading="replace",
    seen=(
        f"use {{glu}} {_MLPS}[ in {{target}}]",
        "use {glu}[ in {target}]",
        f"use {{glu}} in the {_MLP}[ (of|in) {{target}}]",
        f"make the {_MLP}[ (of|in) {{target}}] {{glu}}",
        f"make the {_MLPS}[ (of|in) {{target}}] {{glu}}",
        f"(convert|turn|change) the {_MLP}[ (of|in) {{target}}] (to|into) {{glu}}",
        f"~{{glu}} {_MLPS}[ (in|for) {{target}}]",
        "~{target}: {glu}",
        f"gate the {_MLP}[ (of|in) {{target}}] ({{glu}})".replace("({glu})", "<{glu}>"),
        f"add a gate to the {_MLP}[ (of|in) {{target}}] <{{glu}}>",
        "switch[ {target}] to {glu}",
        *_GLU_SEEN,
    ),
    unseen=(
        f"have the {_MLP}[ (of|in) {{target}}] multiply two projections, {{glu}}",
        f"~the {_MLPS}[ (of|in) {{target}}] should be {{glu}}",
        *_GLU_UNSEEN,
    ),
    propose=_propose_gated,
    refuse=(
        out_of_range("gated_mlp", lambda rng: {"glu": GATES[rng.choice(("silu", "gelu"))][1]}),
        _no_mlp("gated_mlp", {"glu": GATES["silu"][1]}),
    ),
    weight=1.2,
)


@dataclass(frozen=True, slots=True)
class Style:
    """What a model family is known for: its norm, the gate of its MLP, and how people name it."""

    norm: str
    activation: str
    words: Phrases


STYLES: Mapping[str, Style] = {
    "llama": Style("RMSNorm", "silu", say("Llama", "LLaMA", "llama", "Llama 2", "Llama-3", unseen=("a Llama model",))),
    "mistral": Style("RMSNorm", "silu", say("Mistral", "mistral", unseen=("the Mistral models",))),
    "qwen": Style("RMSNorm", "silu", say("Qwen", "qwen2", "Qwen2", unseen=("the Qwen models",))),
    "gemma": Style("RMSNorm", "gelu", say("Gemma", "gemma", unseen=("the Gemma models",))),
    "t5v1.1": Style("RMSNorm", "gelu", say("T5 v1.1", "T5v1.1", "Flan-T5", unseen=("the newer T5",))),
}


def _old_norm(node: Node) -> bool:
    return node.op == "LayerNorm" and node.attr_map["num_axes"] == 1


def apply_style(writer: ScriptWriter, roles: BlockRoles, style: Style, kv_heads: int | None) -> None:
    """Norms, key and value heads and feed-forward parts, in the order of the block's nodes."""
    gates = {mlp.act: mlp for mlp in ungated(roles)}
    for node in roles.block.nodes:
        if _old_norm(node):
            writer.put(node.name, style.norm)
        elif node.name in gates:
            gate_mlp(writer, roles, gates[node.name], style.activation)
        elif kv_heads and roles.own is not None and node.name == roles.own.k:
            set_kv_heads(writer, roles, kv_heads)


def _propose_style(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    name = rng.choice(("llama", "llama", "llama", *STYLES))
    style = STYLES[name]
    target, said = target_or_all(anatomy, rng, lambda x: bool(anatomy.roles(x.block).mlps), 0.6)
    if target is None:
        return None
    kv = _kv_choice(anatomy, target.layers, rng)
    slots = {"style": style.words, **({"kv": _kv_phrases(kv)} if kv else {})}
    values = {"style": name, "norm": style.norm, "activation": style.activation, "kv_heads": kv}
    found = [n for x in target.layers for n in anatomy.roles(x.block).block.nodes]
    same = not any(_old_norm(n) for n in found) and not any(ungated(anatomy.roles(x.block)) for x in target.layers)
    if said or same:
        draft = layer_draft(
            "model_style", anatomy, target, lambda w, r: apply_style(w, r, style, kv), values=values, slots=slots,
            say_target=said,
        )  # fmt: skip
        if not same or kv:
            return draft
        return refused(draft, "already_so") if rng.random() < 0.3 else None

    def touches(node: Node) -> bool:
        return _old_norm(node) or node.name in acts

    acts = {mlp.act for b in anatomy.graph.all_blocks for mlp in ungated(anatomy.roles(b.name))}
    request = Request(intent="model_style", values=tuple(values.items()))

    def build(writer: ScriptWriter) -> None:
        edit_blocks(writer, anatomy, touches, lambda w, r: apply_style(w, r, style, kv))

    return Draft(request=request, slots=slots, build=build)


def _kv_choice(anatomy: Anatomy, layers: tuple[Layer, ...], rng: random.Random) -> int | None:
    """A number of key and value heads that all layers can have, mostly none at all."""
    if rng.random() < 0.75 or not all(_separate(anatomy, layer) for layer in layers):
        return None
    owned = [(r, r.own) for x in layers if (r := anatomy.roles(x.block)).own is not None]
    heads = {_heads(roles, role) for roles, role in owned}
    now = {_kv_heads(roles, role) for roles, role in owned}
    counts = [n for n in (1, 2, 4) if n not in now and all(h % n == 0 and n < h for h in heads)]
    return rng.choice(counts) if counts else None


_KV = "[, with {kv}]"
MODEL_STYLE = Intent(
    name="model_style",
    reading="convert",
    seen=(
        "make it like {style}" + _KV,
        "make (it|the model|this model) (look |)(more |)like {style}" + _KV,
        "(convert|turn|transform) (it|the model|this model) into a {style} style (model|architecture)" + _KV,
        "make (it|the model) {style}-like" + _KV,
        "use the {style} recipe <RMSNorm, gated MLP>" + _KV,
        "use {style} style (layers|blocks)" + _KV,
        "~{style} style[ (in|for) {target}]" + _KV,
        "~{style}-style (layers|blocks)" + _KV,
        "make {target} like {style}" + _KV,
        "make {target} look like {style}" + _KV,
        "(convert|turn|change) {target} (to|into) {style} style" + _KV,
        "~{target}: {style} style" + _KV,
        "(modernise|modernize) (it|the model) in the style of {style}" + _KV,
        "bring[ {target}] (up to|to) the {style} recipe" + _KV,
        "adopt the {style} design[ in {target}]" + _KV,
        "restyle[ {target}] after {style}" + _KV,
        "~I want {target} to (look|be) like {style}" + _KV,
        "~I want (it|the model) to (look|be) like {style}" + _KV,
        "~(could|can) you make (it|the model) like {style}?",
        "rebuild {target} the way {style} does it" + _KV,
        "build (it|the model) the {style} way" + _KV,
        "give {target} the norms and MLPs of {style}" + _KV,
        "give (it|the model) the norms and MLPs of {style}" + _KV,
    ),
    unseen=(
        "follow {style} in norms and feed-forwards[ in {target}]" + _KV,
        "~style transfer[ (in|for) {target}]: {style}" + _KV,
        "let {target} take after {style}" + _KV,
        "let the architecture take after {style}" + _KV,
        "~something closer to {style} please" + _KV,
        "imitate {style}[ in {target}]" + _KV,
    ),
    propose=_propose_style,
    refuse=(
        out_of_range("model_style", lambda _: {"style": STYLES["llama"].words}),
        _no_mlp("model_style", {"style": STYLES["llama"].words}),
    ),
    combines=False,
)

STYLE = (GATED_MLP, MODEL_STYLE)
