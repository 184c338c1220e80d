"""Edits of feed-forward parts: their width, their activation, adapters after them."""

import random
from collections.abc import Mapping

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
from genmad.intents.roles import ACTIVATIONS, BlockRoles, MlpRole
from genmad.intents.targets import pick_target
from genmad.intents.types import Request
from genmad.intents.values import usual
from genmad.intents.wordings.slots import SLOTS, numbered
from genmad.intents.writing import Number, ScriptWriter, edit_blocks
from genmad.ir.graph import Node

WIDTHS = (32, 48, 64, 96, 100, 128, 192, 256, 384, 512, 640, 768, 1000, 1024, 1280, 1536, 2048, 3072, 4096, 8192)


def _has_mlp(anatomy: Anatomy, layer: Layer) -> bool:
    return bool(anatomy.roles(layer.block).mlps)


def _width_attr(roles: BlockRoles, mlp: MlpRole) -> str:
    return "hidden_features" if roles.block.by_name[mlp.up[0]].op == "GatedMLP" else "out_features"


def resize_mlps(writer: ScriptWriter, roles: BlockRoles, width: Number) -> None:
    """New width of each widening linear; of a gated pair one by one, the product reading one side meanwhile."""
    for mlp in roles.mlps:
        attr = _width_attr(roles, mlp)
        if not mlp.product:
            writer.set(mlp.up[0], **{attr: width})
            continue
        product = roles.block.by_name[mlp.product]
        slot = next(i for i, v in enumerate(product.inputs) if v == mlp.up[1])
        writer.rewire(product.name, slot, product.inputs[1 - slot])
        for up in mlp.up:
            writer.set(up, **{attr: width})
        writer.rewire(product.name, slot, mlp.up[1])


_FACTORS = ((2, 1), (2, 1), (1, 2), (1, 2), (3, 1), (4, 1), (1, 4), (3, 2), (1, 3), (3, 4), (5, 4), (8, 1))


def factor_words(rng: random.Random) -> tuple[Number, dict[str, Phrases], tuple[tuple[str, object], ...]]:
    times, over = rng.choice(_FACTORS)
    words = {
        (2, 1): say("(double|widen)", unseen=("enlarge twofold", "scale up by two")),
        (1, 2): say("(halve|narrow)", unseen=("shrink by half", "cut in two")),
    }
    number = Number("old", times=times, over=over)
    values = (("times", times), ("over", over))
    if (times, over) in words and rng.random() < 0.6:
        return number, {"scale": words[times, over]}, values
    return number, {"factor": _factor_phrases(times, over)}, values


def _factor_phrases(times: int, over: int) -> Phrases:
    table = {
        (2, 1): (("twice as wide", "two times as wide", "2x wider", "2x as wide", "100% wider", "100 percent wider"),
                 ("two times wider", "200 % as wide")),
        (3, 1): (("three times as wide", "3x wider", "3x as wide"), ("thrice as wide",)),
        (4, 1): (("four times as wide", "4x wider", "4x as wide", "four times wider"), ("fourfold as wide",)),
        (8, 1): (("eight times as wide", "8x wider", "8x as wide"), ("eightfold as wide",)),
        (1, 2): (("half as wide", "2x narrower", "two times narrower", "narrower by half", "50 percent narrower"),
                 ("50% narrower",)),
        (1, 4): (("a quarter as wide", "4x narrower", "four times narrower", "75 percent narrower"),
                 ("75% narrower", "one quarter as wide")),
        (1, 3): (("a third as wide", "3x narrower", "three times narrower"), ("one third as wide",)),
        (3, 2): (("1.5 times as wide", "1.5x wider", "1.5x as wide", "50 percent wider", "half as wide again",
                  "one and a half times as wide"), ("50% wider",)),
        (3, 4): (("25% narrower", "25 % narrower", "25 percent narrower", "three quarters as wide"),
                 ("narrower by a quarter", "a quarter narrower", "0.75 times as wide")),
        (5, 4): (("25% wider", "25 % wider", "25 percent wider", "a quarter wider", "1.25 times as wide"),
                 ("wider by a quarter", "1.25x as wide")),
    }  # fmt: skip
    return Phrases(*table[times, over])


def _width_phrases(width: int) -> Phrases:
    plain = (f"{width}", f"{width}", f"{width} units", f"{width} hidden units", f"{width} channels", f"width {width}")
    seen = (*plain, f"{width}", f"{width}", *numbered("mlp width", width))
    return Phrases(seen, (f"{width} neurons", f"{width} features"))


def _fits_over(anatomy: Anatomy, layer: Layer, number: Number) -> bool:
    roles = anatomy.roles(layer.block)
    return all(
        roles.block.by_name[up].attr_map[_width_attr(roles, mlp)] * number.times % number.over == 0
        for mlp in roles.mlps
        for up in mlp.up
    )


def _propose_resize(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    target, said = target_or_all(anatomy, rng, lambda x: _has_mlp(anatomy, x), 0.2)
    if target is None:
        return None
    values: tuple[tuple[str, object], ...]
    if rng.random() < 0.45:
        width = usual(rng, WIDTHS, 8, 4096)
        number, values, slots = Number.of(width), (("width", width),), {"width": _width_phrases(width)}
    else:
        number, slots, values = factor_words(rng)
        if not all(_fits_over(anatomy, layer, number) for layer in target.layers):
            return None
    return layer_draft(
        "resize_mlp", anatomy, target, lambda w, r: resize_mlps(w, r, number), values=dict(values), slots=slots,
        say_target=said
    )  # fmt: skip


def _no_mlp(intent: str, slots: dict[str, Phrases]) -> Propose:
    """A refusal where no layer has a feed-forward part."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        has = any(roles.mlps or roles.linears for x in anatomy.layers for roles in (anatomy.roles(x.block),))
        target = None if has else pick_target(anatomy, rng)
        if target is None:
            return None
        return refusal_draft(intent, "not_applicable", {**slots, "target": target.phrases}, exact=target.exact)

    return propose


_MLP = "(mlp|MLP|feed-forward|feed forward|ffn|FFN)"
RESIZE_MLP = Intent(
    name="resize_mlp",
    reading="resize",
    seen=(
        "{scale} the " + _MLP + "[ (of|in) {target}]",
        "{scale} the (width|hidden size|hidden width) of the " + _MLP + "[ (of|in) {target}]",
        "{scale} the intermediate size[ (of|in) {target}]",
        "{scale} the hidden dimension of the " + _MLP + "[ (of|in) {target}]",
        "~{target}: {scale} the " + _MLP,
        "{scale} the (number of hidden units|hidden units)[ (of|in) {target}]",
        "make the " + _MLP + "[ (of|in) {target}] {factor}",
        "make the hidden layer of the " + _MLP + "[ (of|in) {target}] {factor}",
        "~" + _MLP + "[ (of|in) {target}] {factor}",
        "~{target}: " + _MLP + " {factor}",
        "let the " + _MLP + "[ (of|in) {target}] be {factor}",
        "set the (width|hidden size|hidden width) of the " + _MLP + "[ (of|in) {target}] to {width}",
        "set the intermediate size[ (of|in) {target}] to {width}",
        "(resize|change) the " + _MLP + "[ (of|in) {target}] to {width}",
        "~" + _MLP + " (width|size)[ (of|in) {target}] {width}",
        "~{target}: " + _MLP + " {width}",
        "give the " + _MLP + "[ (of|in) {target}] {width}",
        "use {width} in the " + _MLP + "[ of {target}]",
        "~intermediate size {width}[ (in|for) {target}]",
    ),
    unseen=(
        "{scale} the inner width of the " + _MLP + "[ (of|in) {target}]",
        "~we want to {scale} the " + _MLP + "[ (of|in) {target}]",
        "{scale} how wide the " + _MLP + " is[ in {target}]",
        "~the " + _MLP + "[ (of|in) {target}] should become {factor}",
        "rescale the " + _MLP + "[ (of|in) {target}] so that it is {factor}",
        "~the " + _MLP + "[ (of|in) {target}] needs {width}",
        "bring the " + _MLP + "[ (of|in) {target}] to {width}",
        "choose {width} for the " + _MLP + "[ of {target}]",
    ),
    propose=_propose_resize,
    refuse=(
        out_of_range("resize_mlp", lambda rng: factor_words(rng)[1]),
        _no_mlp("resize_mlp", {"scale": say("(double|halve|widen|narrow)")}),
    ),
    weight=1.4,
)

NEW_ACTIVATIONS: dict[str, tuple[str, dict[str, object], Phrases]] = {
    "relu": ("Relu", {}, say(
        "relu", "ReLU", "Relu", "a rectifier", "rectifiers", "rectified linear unit", "the rectified linear unit",
        "relus", "ReLUs", "max<0, x>", unseen=("rectified linear units", "half-wave rectification"))),
    "gelu": ("Gelu", {}, say(
        "gelu", "GELU", "GeLU", "gaussian error linear unit", "the Gaussian error linear unit", "GELUs", "exact gelu",
        "gaussian error linear", unseen=("Gaussian error linear units", "x times the Gaussian cdf"))),
    "silu": ("Silu", {}, say(
        "silu", "SiLU", "swish", "Swish", "sigmoid linear unit", "sigmoid-weighted linear units", "the swish function",
        "x * sigmoid<x>", unseen=("the SiLU function", "sigmoid linear units"))),
    "mish": ("Mish", {}, say("mish", "Mish", "mish activation", "the mish", unseen=("the Mish function",))),
    "leaky_relu": ("LeakyRelu", {}, say(
        "leaky relu", "LeakyReLU", "leaky ReLU", "leaky rectified linear unit", "lrelu", "leaky rectifiers",
        "leakyrelu", "leaky_relu", unseen=("a leaky rectifier", "leaky rectified linear units"))),
    "elu": ("Elu", {}, say(
        "elu", "ELU", "exponential linear unit", "the exponential linear unit", "ELUs", "exponential linear",
        unseen=("exponential linear units",))),
    "selu": ("Selu", {}, say(
        "selu", "SELU", "scaled exponential linear unit", "self-normalizing activations", "scaled ELU",
        unseen=("scaled exponential linear units",))),
    "hard_swish": ("HardSwish", {}, say(
        "hardswish", "hard swish", "HardSwish", "hard-swish", "h-swish", "hswish", "hard_swish",
        unseen=("the hard version of swish", "piecewise-linear swish"))),
    "tanh": ("Tanh", {}, say(
        "tanh", "Tanh", "hyperbolic tangent", "the hyperbolic tangent function", "tan-h",
        unseen=("the hyperbolic tangent", "tangens hyperbolicus"))),
    "sigmoid": ("Sigmoid", {}, say(
        "sigmoid", "Sigmoid", "logistic sigmoid", "logistic function", "sigmoids", "the sigmoid function",
        unseen=("the logistic function", "the logistic curve"))),
    "softplus": ("Softplus", {}, say(
        "softplus", "Softplus", "soft plus", "smooth relu", unseen=("the softplus function",))),
    "relu6": ("Relu6", {}, say(
        "relu6", "ReLU6", "relu 6", "ReLU-6", "capped relu", "relu capped at 6",
        unseen=("relu clipped at 6", "a rectifier limited to six"))),
    "quick_gelu": ("Gelu", {"approximate": "sigmoid"}, say(
        "quick gelu", "QuickGELU", "quick_gelu", "quickgelu", "sigmoid approximation of gelu", "gelu by sigmoid",
        unseen=("the sigmoid gelu",))),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}, say(
        "gelu_new", "tanh gelu", "the tanh approximation of gelu", "gelu <tanh>", "tanh-approximated gelu",
        "gelu_pytorch_tanh", "approximate gelu", unseen=("gelu with tanh",))),
}  # fmt: skip
_FROM = {
    "Relu": "relu",
    "Gelu": "gelu",
    "Silu": "silu",
    "HardSwish": "hard_swish",
    "Relu6": "relu6",
    "LeakyRelu": "leaky_relu",
}


def _is_activation(node: Node, only: str = "") -> bool:
    if only:
        return node.op == only
    return node.op in ACTIVATIONS or node.op == "GatedMLP"


def _is_already(node: Node, name: str) -> bool:
    op, attrs, _ = NEW_ACTIVATIONS[name]
    if node.op == "GatedMLP":
        return bool(node.attr_map["activation"] == name)
    return node.op == op and (op != "Gelu" or node.attr_map.get("approximate") == attrs.get("approximate", "none"))


def set_activations(writer: ScriptWriter, roles: BlockRoles, name: str, only: str) -> None:
    op, attrs, _ = NEW_ACTIVATIONS[name]
    for node in roles.activations:
        if not _is_activation(node, only) or _is_already(node, name):
            continue
        if node.op == "GatedMLP":
            writer.set(node.name, activation=name)
        elif node.op == op:
            writer.set(node.name, approximate=str(attrs.get("approximate", "none")))
        else:
            writer.put(node.name, op, **attrs)  # type: ignore[arg-type]


def _propose_activation(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    nodes = [n for b in anatomy.graph.all_blocks for n in b.nodes if _is_activation(n)]
    if not nodes:
        return None
    only = rng.choice(nodes).op if rng.random() < 0.35 else ""
    only = only if only in _FROM else ""
    present = next((n for n in nodes if n.op in _FROM), None)
    name = rng.choice(list(NEW_ACTIVATIONS))
    slots = {"act": NEW_ACTIVATIONS[name][2]}
    if only:
        slots["old"] = NEW_ACTIVATIONS[_FROM[only]][2]
    values = {"activation": name, "only": only or None}
    if rng.random() < 0.3 or not anatomy.layers:
        return _activation_everywhere(anatomy, name, only, slots, values)

    def fits(layer: Layer) -> bool:
        return any(_is_activation(n, only) for n in anatomy.roles(layer.block).activations)

    target = pick_target(anatomy, rng, fits)
    if target is None or present is None:
        return None
    draft = layer_draft(
        "change_activation", anatomy, target, lambda w, r: set_activations(w, r, name, only), values=values, slots=slots
    )  # fmt: skip
    found = [n for x in target.layers for n in anatomy.roles(x.block).activations if _is_activation(n, only)]
    return refused(draft, "already_so") if all(_is_already(n, name) for n in found) else draft


def _activation_everywhere(
    anatomy: Anatomy, name: str, only: str, slots: dict[str, Phrases], values: Mapping[str, object]
) -> Draft | None:
    found = [p for p in anatomy.places if not p.node.is_call and _is_activation(p.node, only)]

    def touches(node: Node) -> bool:
        return _is_activation(node, only) and not _is_already(node, name)

    nothing = all(_is_already(p.node, name) for p in found)
    request = Request(
        intent="change_activation", nodes=tuple(p.path for p in found), values=tuple(values.items()),
        refusal="already_so" if nothing else "",
    )  # fmt: skip

    def build(writer: ScriptWriter) -> None:
        edit_blocks(writer, anatomy, touches, lambda w, r: set_activations(w, r, name, only))

    return Draft(request=request, slots=slots, build=None if nothing else build)


ACTIVATION = Intent(
    name="change_activation",
    reading="replace",
    seen=(
        "(change|set|switch) the activation (function |)[(of|in) {target} ]to {act}",
        "use {act} (as the activation|activations|as activation function)[ in {target}]",
        "use {act}[ in {target}]",
        "replace the activation[ (of|in) {target}] (by|with) {act}",
        "make {target} use {act}",
        "~{act} activation[ (in|for) {target}]",
        "~{target}: activation {act}",
        "~{target}: {act} instead of {old}",
        "replace {old} (by|with) {act}[ in {target}]",
        "(swap|exchange) {old} for {act}[ in {target}]",
        "(change|convert|turn) (every |all |){old}[ (of|in) {target}] (to|into) {act}",
        "use {act} instead of {old}[ in {target}]",
        "~{act} instead of {old}[ in {target}]",
        "put {act} in place of {old}[ in {target}]",
        "switch the nonlinearity[ (of|in) {target}] to {act}",
        "~{old} -> {act}[ (in|for) {target}]",
        "(set|change) activation[ (of|in) {target}] = {act}",
        "(swap|exchange) the activation[ (of|in) {target}] for {act}",
    ),
    unseen=(
        "let {target} be activated by {act}",
        "~the nonlinearity[ (of|in) {target}] should be {act}",
        "substitute {act} for {old}[ in {target}]",
        "~no {old}[ in {target}], take {act}",
        "go with {act} for the nonlinearity[ (of|in) {target}]",
        "take {act} as the new nonlinearity[ (of|in) {target}]",
    ),
    propose=_propose_activation,
    refuse=(
        out_of_range("change_activation", lambda rng: {"act": NEW_ACTIVATIONS[rng.choice(list(NEW_ACTIVATIONS))][2]}),
    ),
    weight=1.5,
)


def _adapter_place(roles: BlockRoles, where: str) -> str:
    """The value after which an adapter stands; "" where there is none."""
    if where == "attention":
        return roles.own.out if roles.own else ""
    return roles.mlps[-1].down if roles.mlps else (roles.own.out if roles.own and not where else "")


def add_adapter(writer: ScriptWriter, roles: BlockRoles, size: int, act: str, where: str) -> None:
    value = _adapter_place(roles, where)
    down = writer.add("Linear", value, out_features=Number.of(size))
    mid = writer.add(act, down)
    up = writer.add("Linear", mid, out_features=Number("channels", value))
    writer.swap_uses(value, writer.add("Add", value, up))


def _propose_adapter(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    where = rng.choice(("", "", "mlp", "attention"))
    target, said = target_or_all(anatomy, rng, lambda x: bool(_adapter_place(anatomy.roles(x.block), where)), 0.2)
    if target is None:
        return None
    size = usual(rng, (4, 8, 16, 24, 32, 48, 64, 96, 128, 256), 2, 300) if rng.random() < 0.6 else None
    act = rng.choice(("relu", "gelu", "silu")) if rng.random() < 0.2 else ""
    slots: dict[str, Phrases] = {}
    if size:
        seen = (
            f"bottleneck {size}",
            f"size {size}",
            f"a bottleneck of {size}",
            f"bottleneck size {size}",
            f"width {size}",
            f"hidden size {size}",
            *numbered("adapter size", size),
        )
        slots["size"] = Phrases(seen, (f"{size} hidden units", f"an inner width of {size}"))
    if act:
        slots["act"] = NEW_ACTIVATIONS[act][2]
    if where:
        slots["where"] = say("attention", "self-attention", *SLOTS["attention"],
            unseen=("the attention part",)) if where == "attention" else say(
            "mlp", "feed-forward", "MLP", "ffn", *SLOTS["mlp"], unseen=("feed-forward part",))  # fmt: skip
    op = NEW_ACTIVATIONS[act or "gelu"][0]
    return layer_draft(
        "adapter", anatomy, target, lambda w, r: add_adapter(w, r, size or 64, op, where),
        values={"size": size, "activation": act or None, "where": where or None}, slots=slots, say_target=said,
    )  # fmt: skip


_TAIL = "[ with {size}][ and {act}]"
ADAPTER = Intent(
    name="adapter",
    reading="adapt",
    seen=(
        "add (an adapter|adapters|a bottleneck adapter)[ after the {where}][ (in|to|of) {target}]" + _TAIL,
        "(insert|put|place) (an adapter|adapters|a bottleneck adapter)[ after the {where}][ (in|into|of) {target}]"
        + _TAIL,
        "(insert|add) a (small |)adapter (module|layer)[ behind the {where}][ (in|of) {target}]" + _TAIL,
        "add (Houlsby|bottleneck) adapters[ after the {where}][ in {target}]" + _TAIL,
        "give {target} (an adapter|a bottleneck adapter)[ after the {where}]" + _TAIL,
        "(equip|extend) {target} with (an adapter|a bottleneck adapter)[ after the {where}]" + _TAIL,
        "adapt {target} (with|by) a bottleneck (adapter|module)[ after the {where}]" + _TAIL,
        "~(adapter|bottleneck adapter|adapters)[ (in|for) {target}][ after the {where}][, {size}][, {act}]",
        "~{target}: (adapter|bottleneck adapter)[ after the {where}][, {size}][, {act}]",
        "attach (an adapter|a bottleneck adapter)[ to the {where}][ (of|in) {target}]" + _TAIL,
        "follow the {where}[ (of|in) {target}] (with|by) an adapter" + _TAIL,
        "install adapters[ after the {where}][ in {target}]" + _TAIL,
        "use adapters[ after the {where}][ in {target}]" + _TAIL,
    ),
    unseen=(
        "append a (residual bottleneck|bottleneck block)[ after the {where}][ (of|in) {target}]" + _TAIL,
        "fit {target} with an adapter[ behind the {where}]" + _TAIL,
        "prepare {target} for adapter tuning[ after the {where}]" + _TAIL,
        "~{target} should carry an adapter[ behind the {where}]" + _TAIL,
        "mount adapters[ behind the {where}][ in {target}]" + _TAIL,
    ),
    propose=_propose_adapter,
    refuse=(out_of_range("adapter", lambda _: {}),),
    weight=1.1,
)


MLP = (RESIZE_MLP, ACTIVATION, ADAPTER)
