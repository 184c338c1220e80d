"""Edits that take norms and activations out, and the groups of group norms."""

import random

from genmad.intents.anatomy import Anatomy
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
from genmad.intents.frames import removal_frames, setting_frames
from genmad.intents.mlp import NEW_ACTIVATIONS
from genmad.intents.norm import NORM_NAMES
from genmad.intents.phrasing import Phrases, say
from genmad.intents.roles import ACTIVATIONS, NORMS, BlockRoles
from genmad.intents.targets import pick_target
from genmad.intents.writing import Number, ScriptWriter
from genmad.ir.graph import Node

_ANY_NORM = say(
    "the norms", "all norms", "the normalization layers", "the normalization", "every norm", "normalization",
    "the norm layers", unseen=("whatever normalizes", "the normalizers"),
)  # fmt: skip


def remove_norms(writer: ScriptWriter, roles: BlockRoles, kind: str) -> None:
    for node in roles.norms:
        if not kind or node.op == kind:
            writer.remove(node.name)


def _propose_norm(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    kinds = sorted({n.op for x in anatomy.layers for n in anatomy.roles(x.block).norms})
    if not kinds:
        return None
    kind = rng.choice(kinds) if rng.random() < 0.5 else ""
    target, said = target_or_all(
        anatomy, rng, lambda x: any(not kind or n.op == kind for n in anatomy.roles(x.block).norms), 0.06
    )
    if target is None:
        return None
    return layer_draft(
        "remove_norm", anatomy, target, lambda w, r: remove_norms(w, r, kind), values={"kind": kind or None},
        slots={"norm": NORM_NAMES[kind] if kind else _ANY_NORM}, say_target=said,
    )  # fmt: skip


def _no_such_norm(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    present = {n.op for b in anatomy.graph.all_blocks for n in b.nodes}
    absent = [n for n in ("BatchNorm", "GroupNorm", "InstanceNorm", "RMSNorm", "LayerNorm") if n not in present]
    target = pick_target(anatomy, rng)
    if not absent or target is None or not present & set(NORMS):
        return None
    slots = {"norm": NORM_NAMES[rng.choice(absent)], "target": target.phrases}
    return refusal_draft("remove_norm", "no_such_target", slots, exact=target.exact)


_NORM = removal_frames("{norm}")
REMOVE_NORM = Intent(
    name="remove_norm",
    reading="remove",
    seen=(
        *_NORM[0],
        "make {target} normalization-free: no {norm}",
        "bypass {norm}[ in {target}]",
        "skip {norm}[ in {target}]",
    ),
    unseen=(*_NORM[1], "let signals pass unnormalized[ in {target}]: drop {norm}"),
    propose=_propose_norm,
    refuse=(_no_such_norm, out_of_range("remove_norm", lambda _: {"norm": _ANY_NORM})),
    weight=0.8,
)

_ANY_ACTIVATION = say(
    "the activation", "the activations", "the activation function", "the nonlinearity", "the nonlinearities",
    unseen=("the non-linear functions", "what is non-linear"),
)  # fmt: skip
_ACTIVATION_NAMES = {"Relu": "relu", "Gelu": "gelu", "Silu": "silu", "HardSwish": "hard_swish", "Relu6": "relu6"}


def _plain(roles: BlockRoles, kind: str) -> tuple[Node, ...]:
    return roles.nodes(kind) if kind else roles.nodes(*ACTIVATIONS)


def remove_activations(writer: ScriptWriter, roles: BlockRoles, kind: str) -> None:
    for node in _plain(roles, kind):
        writer.remove(node.name)


def _propose_activation(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    kinds = sorted({n.op for x in anatomy.layers for n in _plain(anatomy.roles(x.block), "")} & set(_ACTIVATION_NAMES))
    kind = rng.choice(kinds) if kinds and rng.random() < 0.4 else ""
    target, said = target_or_all(anatomy, rng, lambda x: bool(_plain(anatomy.roles(x.block), kind)), 0.04)
    if target is None:
        return None
    words = NEW_ACTIVATIONS[_ACTIVATION_NAMES[kind]][2] if kind else _ANY_ACTIVATION
    return layer_draft(
        "remove_activation", anatomy, target, lambda w, r: remove_activations(w, r, kind),
        values={"kind": kind or None}, slots={"what": words}, say_target=said,
    )  # fmt: skip


_ACTIVATION = removal_frames("{what}")
REMOVE_ACTIVATION = Intent(
    name="remove_activation",
    reading="remove",
    seen=(
        *_ACTIVATION[0],
        "make {target} linear: (remove|no) {what}",
        "bypass {what}[ in {target}]",
        "replace {what}[ (of|in) {target}] (by|with) the identity",
        "do not apply {what}[ in {target}]",
    ),
    unseen=(*_ACTIVATION[1], "turn {target} into a linear map by leaving {what} away"),
    propose=_propose_activation,
    refuse=(out_of_range("remove_activation", lambda _: {"what": _ANY_ACTIVATION}),),
    weight=0.7,
)


# groups of group norms


def set_norm_groups(writer: ScriptWriter, roles: BlockRoles, groups: int) -> None:
    for node in roles.nodes("GroupNorm"):
        if node.attr_map["num_groups"] != groups:
            writer.set(node.name, num_groups=Number.of(groups))


def _propose_groups(possible: bool) -> Propose:
    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        groups = rng.choice((1, 2, 4, 8, 16, 32) if possible else (3, 5, 6, 7, 9, 11, 12, 13))

        def divides(roles: BlockRoles, node: Node) -> bool:
            width = roles.block.types[node.inputs[0]].shape[1]
            return isinstance(width, int) and width % groups == 0

        target, said = target_or_all(anatomy, rng, lambda x: bool(anatomy.roles(x.block).nodes("GroupNorm")), 0.15)
        if target is None:
            return None
        found = [(r, n) for x in target.layers for r in (anatomy.roles(x.block),) for n in r.nodes("GroupNorm")]
        if any(divides(r, n) is not possible for r, n in found):
            return None
        draft = layer_draft(
            "norm_groups", anatomy, target, lambda w, r: set_norm_groups(w, r, groups), values={"num_groups": groups},
            slots={"groups": _group_words(groups)}, say_target=said, refusal="" if possible else "not_divisible",
        )  # fmt: skip
        same = all(n.attr_map["num_groups"] == groups for _, n in found)
        return refused(draft, "already_so") if same else draft

    return propose


def _group_words(groups: int) -> Phrases:
    return Phrases((f"{groups}", f"{groups}"), (f"exactly {groups}",))


def _no_group_norm(anatomy: Anatomy, rng: random.Random) -> Draft | None:
    present = {n.op for b in anatomy.graph.all_blocks for n in b.nodes}
    target = pick_target(anatomy, rng)
    if target is None or "GroupNorm" in present or not present & set(NORMS):
        return None
    slots = {"groups": _group_words(rng.choice((4, 8, 16))), "target": target.phrases}
    return refusal_draft("norm_groups", "no_such_target", slots, exact=target.exact)


_GROUPS = setting_frames("number of (group norm|GroupNorm|group normalization) groups", "{groups}")
NORM_GROUPS = Intent(
    name="norm_groups",
    reading="resize",
    seen=(
        *_GROUPS[0],
        "use {groups} groups in the group (norm|normalization)[ of {target}]",
        "let the group norms[ (of|in) {target}] (use|have) {groups} groups",
        "~group norm with {groups} groups[ (in|for) {target}]",
        "normalize[ {target}] over {groups} groups of channels",
        "(set|change) num_groups[ (of|in) {target}] to {groups}",
    ),
    unseen=(
        *_GROUPS[1],
        "partition the channels into {groups} for the group norms[ (of|in) {target}]",
        "have the group norms[ (of|in) {target}] split channels into {groups}",
    ),
    propose=_propose_groups(True),
    refuse=(_propose_groups(False), _no_group_norm),
    weight=0.6,
)

NORM_REMOVAL = (REMOVE_NORM, REMOVE_ACTIVATION, NORM_GROUPS)
