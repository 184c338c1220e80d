"""Edits of pools: another kind, another size, none; and what mixes positions in pooling and convolutional mixers."""

import random
from collections.abc import Callable

from genmad.intents.anatomy import Anatomy
from genmad.intents.conv_attributes import node_words, overlapping
from genmad.intents.conv_width import is_depthwise
from genmad.intents.draft import Draft, Intent, Propose, layer_draft, out_of_range, refusal_draft, target_or_all
from genmad.intents.frames import exchange_frames, removal_frames, setting_frames
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import BlockRoles
from genmad.intents.targets import pick_target
from genmad.intents.types import Request
from genmad.intents.writing import Number, ScriptWriter, edit_blocks
from genmad.ir.graph import Node, Place
from genmad.ir.script import Setting

POOLS = ("MaxPool", "AveragePool")
_NAMES = {
    "MaxPool": say(
        "max pooling", "max-pooling", "maxpool", "MaxPool", "max pool", "maximum pooling",
        unseen=("pooling by the maximum",),
    ),
    "AveragePool": say(
        "average pooling", "avg pooling", "mean pooling", "avgpool", "AveragePool", "average pool",
        unseen=("pooling by the mean",),
    ),
    "Conv": say(
        "a strided convolution", "strided convolutions", "a convolution", "a strided conv", "a learned convolution",
        unseen=("a convolution with the same stride",),
    ),
}  # fmt: skip


def _pools(anatomy: Anatomy, *ops: str) -> list[Place]:
    return [p for p in anatomy.places if p.node.op in (ops or POOLS)]


def _new_settings(node: Node, new: str) -> dict[str, Setting]:
    return {"out_channels": Number("channels", node.inputs[0])} if new == "Conv" else {}


def swap_pools(writer: ScriptWriter, roles: BlockRoles, old: str, new: str) -> None:
    for node in roles.nodes(old):
        writer.put(node.name, new, **_new_settings(node, new))


def _propose_swap(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    places = _pools(anatomy)
    if not places:
        return None
    old = rng.choice(places).node.op
    new = rng.choice([n for n in ("MaxPool", "AveragePool", "Conv") if n != old])
    slots = {"old": _NAMES[old], "new": _NAMES[new]}
    values: dict[str, object] = {"old": old, "new": new}
    target = pick_target(anatomy, rng, lambda x: bool(anatomy.roles(x.block).nodes(old)))
    if target is not None and rng.random() < 0.7:
        return layer_draft(
            "swap_pooling", anatomy, target, lambda w, r: swap_pools(w, r, old, new), values=values, slots=slots
        )  # fmt: skip
    if rng.random() < 0.25:
        return _at_node(
            "swap_pooling", rng.choice(_pools(anatomy, old)), slots, values,
            lambda w, n: w.put(n.name, new, **_new_settings(n, new)),
        )  # fmt: skip
    nodes = tuple(p.path for p in _pools(anatomy, old))
    request = Request(intent="swap_pooling", nodes=nodes, values=tuple(values.items()))

    def build(writer: ScriptWriter) -> None:
        edit_blocks(writer, anatomy, lambda n: n.op == old, lambda w, r: swap_pools(w, r, old, new))

    return Draft(request=request, slots=slots, build=build)


def _at_node(
    intent: str, place: Place, slots: dict[str, Phrases], values: dict[str, object],
    change: Callable[[ScriptWriter, Node], None],
) -> Draft:  # fmt: skip
    """A change of one named node."""

    def build(writer: ScriptWriter) -> None:
        writer.at(*([place.prefix.rstrip(".")] if place.prefix else []))
        change(writer, place.node)

    request = Request(intent=intent, nodes=(place.path,), values=tuple(values.items()))
    return Draft(request=request, slots={**slots, "target": node_words(place)}, build=build, exact=True)


def _no_pool(intent: str, slots: Callable[[random.Random], dict[str, Phrases]]) -> Propose:
    """A model without pools."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        if _pools(anatomy) or any(n.op == "TorchCall" for b in anatomy.graph.all_blocks for n in b.nodes):
            return None
        words = slots(rng)
        target = pick_target(anatomy, rng)
        if target is not None and rng.random() < 0.6:
            words["target"] = target.phrases
        return refusal_draft(intent, "not_applicable", words, exact=bool(target and target.exact))

    return propose


def _pool_so(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    """The kind of pool that is asked for is the only one there is."""
    found = {p.node.op for p in _pools(anatomy)}
    if len(found) != 1:
        return None
    new = next(iter(found))
    target = pick_target(anatomy, rng, lambda x: bool(anatomy.roles(x.block).nodes(new)))
    slots = {"only": _NAMES[new], **({"target": target.phrases} if target else {})}
    return refusal_draft("swap_pooling", "already_so", slots, values={"new": new}, exact=bool(target and target.exact))


def _two(rng: random.Random) -> dict[str, Phrases]:
    old, new = rng.sample(POOLS, 2)
    return {"old": _NAMES[old], "new": _NAMES[new]}


_SWAP = exchange_frames("{old}", "{new}")
SWAP_POOLING = Intent(
    name="swap_pooling",
    reading="replace",
    seen=(
        *_SWAP[0],
        "pool (by|with) {new} rather than {old}[ in {target}]",
        "~(every|each) {old}[ (of|in) {target}] should be {new}",
        "downsample with {new} instead of {old}[ in {target}]",
        "(set|change) the pooling[ (of|in) {target}] from {old} to {new}",
        "use {only}[ in {target}]",
        "(change|switch) the pooling[ (of|in) {target}] to {only}",
        "pool with {only}[ in {target}]",
        "make (all |)the pooling[ (of|in) {target}] {only}",
    ),
    unseen=(
        *_SWAP[1],
        "~there should be {new} wherever {old} is used[ in {target}]",
        "let {new} do the work of {old}[ in {target}]",
        "take {only} for the pooling[ in {target}]",
    ),
    propose=_propose_swap,
    refuse=(_no_pool("swap_pooling", _two), _pool_so),
    weight=1.0,
)  # fmt: skip


def _propose_remove(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    places = [p for p in _pools(anatomy) if max(p.node.attr_map["stride"]) > 1]
    if not places:
        return None
    place = rng.choice(places)
    slots = {"what": _NAMES[place.node.op]} if rng.random() < 0.7 else {"what": say("pooling", "the pooling layer")}
    if len(places) == 1 and rng.random() < 0.7:
        request = Request(intent="remove_pooling", nodes=(place.path,))

        def build(writer: ScriptWriter) -> None:
            writer.at(*([place.prefix.rstrip(".")] if place.prefix else []))
            writer.remove(place.node.name)

        return Draft(request=request, slots=slots, build=build)
    return _at_node("remove_pooling", place, {}, {}, lambda w, n: w.remove(n.name))


_REMOVE = removal_frames("{what}")
REMOVE_POOLING = Intent(
    name="remove_pooling",
    reading="remove",
    seen=(
        *_REMOVE[0],
        "remove {target}",
        "(delete|drop|cut) {target}",
        "get rid of {target}",
        "take {target} out",
        "~the model without {target}",
        "skip {what} (in the stem|at the start|after the stem)",
        "do no {what} after the first convolution",
    ),
    unseen=(*_REMOVE[1], "dispense with {target}", "~{target} can go", "discard {target}"),
    propose=_propose_remove,
    refuse=(_no_pool("remove_pooling", lambda _: {"what": _NAMES["MaxPool"]}),),
    weight=0.6,
)


# size of a pool


def set_pools(writer: ScriptWriter, roles: BlockRoles, kernel: int) -> None:
    for node in roles.nodes(*POOLS):
        if set(node.attr_map["kernel_size"]) != {kernel}:
            writer.set(node.name, kernel_size=Number.of(kernel))


def _size_words(k: int) -> Phrases:
    return Phrases((f"{k}", f"{k}x{k}", f"{k} x {k}"), (f"{k} by {k}",))


def _propose_size(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    kernel = rng.choice((2, 3, 3, 5, 5, 7, 9, 11))
    places = [p for p in _pools(anatomy) if set(p.node.attr_map["kernel_size"]) != {kernel}]
    if not places or any((k - kernel) % 2 for p in places for k in p.node.attr_map["kernel_size"]):
        return None
    slots = {"size": _size_words(kernel)}
    target = pick_target(anatomy, rng, lambda x: bool(anatomy.roles(x.block).nodes(*POOLS)))
    if target is None:
        place = rng.choice(places)
        return _at_node(
            "pool_size",
            place,
            slots,
            {"kernel_size": kernel},
            lambda w, n: w.set(n.name, kernel_size=Number.of(kernel)),
        )
    return layer_draft(
        "pool_size", anatomy, target, lambda w, r: set_pools(w, r, kernel), values={"kernel_size": kernel}, slots=slots
    )  # fmt: skip


_SIZE = setting_frames("(pool size|pooling size|pooling window|pooling kernel)", "{size}")


def _size_slot(rng: random.Random) -> dict[str, Phrases]:
    return {"size": _size_words(rng.choice((3, 5, 7)))}


POOL_SIZE = Intent(
    name="pool_size",
    reading="resize",
    seen=(
        *_SIZE[0],
        "pool over {size} (windows|patches|pixels)[ in {target}]",
        "use {size} (pooling|pools)[ in {target}]",
        "~{size} pooling[ (in|for) {target}]",
        "(enlarge|change|resize) the (pool|pools|pooling)[ (of|in) {target}] to {size}",
        "let the pooling[ of {target}] (see|cover) {size} (windows|pixels)",
    ),
    unseen=(*_SIZE[1], "pool {size} neighbourhoods[ in {target}]", "resize the pooling area[ of {target}] to {size}"),
    propose=_propose_size,
    refuse=(_no_pool("pool_size", _size_slot), out_of_range("pool_size", _size_slot)),
    weight=0.6,
)


# token mixers

_MIXERS = {
    "pool": say(
        "average pooling", "pooling", "a pooling mixer", "mean pooling", "a PoolFormer-style pooling",
        unseen=("a parameter-free pooling",),
    ),
    "depthwise": say(
        "a depthwise convolution", "depthwise convolutions", "a depthwise conv", "a depth-wise convolution",
        unseen=("a per-channel convolution",),
    ),
}  # fmt: skip


def _mixers(roles: BlockRoles, mixer: str) -> tuple[Node, ...]:
    """What can become the mixer: depthwise convolutions that keep the size become pools, and the reverse."""
    if mixer == "pool":
        if roles.attentions:
            return ()
        return tuple(n for n in roles.convs if overlapping(n) and is_depthwise(roles, n) and _keeps_size(n))
    return tuple(n for n in roles.nodes("AveragePool") if _keeps_size(n) and max(n.attr_map["kernel_size"]) > 1)


def _keeps_size(node: Node) -> bool:
    dilated = set(node.attr_map.get("dilation", (1,))) != {1}
    return set(node.attr_map["stride"]) == {1} and not dilated and len(set(node.attr_map["padding"])) == 1


def mix_tokens(writer: ScriptWriter, roles: BlockRoles, mixer: str) -> None:
    for node in _mixers(roles, mixer):
        if mixer == "pool":
            writer.put(node.name, "AveragePool")
        else:
            width = Number("channels", node.inputs[0])
            writer.put(node.name, "Conv", out_channels=width, groups=width)


def _propose_mixer(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    mixer = rng.choice(list(_MIXERS))
    target, said = target_or_all(anatomy, rng, lambda x: bool(_mixers(anatomy.roles(x.block), mixer)), 0.15)
    if target is None:
        return None
    return layer_draft(
        "token_mixer", anatomy, target, lambda w, r: mix_tokens(w, r, mixer), values={"mixer": mixer},
        slots={"mixer": _MIXERS[mixer]}, say_target=said,
    )  # fmt: skip


TOKEN_MIXER = Intent(
    name="token_mixer",
    reading="replace",
    seen=(
        "use {mixer} as (the |)token mixer[ in {target}]",
        "mix tokens (by|with) {mixer}[ in {target}]",
        "mix (positions|pixels|the tokens|spatially) (by|with) {mixer}[ in {target}]",
        "replace the (token mixer|token mixing|spatial mixing)[ (of|in) {target}] (by|with) {mixer}",
        "(swap|exchange) the (token mixer|spatial mixer)[ (of|in) {target}] for {mixer}",
        "(change|switch|convert) the (token mixer|token mixing|spatial mixing)[ (of|in) {target}] to {mixer}",
        "~{mixer} as (the |)(token|spatial) mixer[ (in|for) {target}]",
        "~{target}: token mixing by {mixer}",
        "~token mixing (by|with) {mixer}[ (in|for) {target}]",
        "let {mixer} mix the (tokens|positions)[ (of|in) {target}]",
        "do the (token|spatial) mixing[ (of|in) {target}] (by|with) {mixer}",
        "make {target} mix (tokens|positions) (by|with) {mixer}",
        "put {mixer} in the place of the token mixer[ (of|in) {target}]",
        "~the token mixer[ (of|in) {target}] should be {mixer}",
        "~I'd like {mixer} for token mixing[ in {target}]",
        "~(could|can) you use {mixer} for the token mixing[ (of|in) {target}]?",
        "set the token mixer[ (of|in) {target}] to {mixer}",
        "give {target} {mixer} as (its|their) token mixer",
        "have the (tokens|positions)[ (of|in) {target}] mixed by {mixer}",
        "turn the token mixer[ (of|in) {target}] into {mixer}",
        "build the token mixing[ (of|in) {target}] from {mixer}",
    ),
    unseen=(
        "exchange information between positions[ (of|in) {target}] by {mixer}",
        "~tokens[ (of|in) {target}] should talk to each other through {mixer}",
        "substitute {mixer} for what mixes the tokens[ in {target}]",
        "take {mixer} for communication across space[ in {target}]",
        "go with {mixer} for mixing over space[ in {target}]",
    ),
    propose=_propose_mixer,
    refuse=(out_of_range("token_mixer", lambda rng: {"mixer": _MIXERS[rng.choice(list(_MIXERS))]}),),
    weight=0.8,
)

POOLING = (SWAP_POOLING, REMOVE_POOLING, POOL_SIZE, TOKEN_MIXER)
