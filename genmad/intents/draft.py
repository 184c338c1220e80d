"""An intent, and a draft: one request that it makes of one graph, not yet in words."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from genmad.intents.anatomy import Anatomy, Layer
from genmad.intents.phrasing import Phrases
from genmad.intents.targets import Target, absent_phrases, fresh_phrases, pick_target
from genmad.intents.types import Request
from genmad.intents.writing import Edit, ScriptWriter, edit_layers

Build = Callable[[ScriptWriter], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One request of one graph.

    Attributes:
        request: with the refusal that is expected already set.
        slots: what the sentence has to say, by slot name.
        build: writes the script; None where the request is refused before any step.
        layers, edit: for edits inside layers, so that two of them can share a section.
        exact: whether the words hold module names.
        other: writes the script of the intent's other reading.
    """

    request: Request
    slots: Mapping[str, Phrases]
    build: Build | None
    layers: tuple[Layer, ...] = ()
    edit: Edit | None = None
    exact: bool = False
    other: Build | None = None


Propose = Callable[[Anatomy, random.Random], Draft | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One kind of request.

    Attributes:
        name: as in `Request.intent`.
        reading: first token of the answer.
        seen, unseen: templates (see `phrasing`); the held-out ones are never used in training.
        propose: draws a request that can be met, or None where the graph has no place for one.
        refuse: draws a request that must be refused, or None.
        other: (reading, probability) of the other reading, and its probability for templates marked `?`.
        prepositions: whether a target in a combined sentence reads better with `to` than with `in`.
        weight: how often it is drawn.
        combines: whether it can be asked for together with other requests in one sentence.
    """

    name: str
    reading: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    propose: Propose
    refuse: tuple[Propose, ...] = ()
    other: tuple[str, float, float] | None = None
    weight: float = 1.0
    combines: bool = True
    doc: str = field(default="", compare=False)


def layer_draft(
    intent: str, anatomy: Anatomy, target: Target, edit: Edit, *, values: Mapping[str, Any], slots: Mapping[str,
        Phrases],
    nodes: tuple[str, ...] = (), refusal: str = "", say_target: bool = True, exact: bool = False,
) -> Draft:  # fmt: skip
    """A draft that edits inside the layers of a target."""
    request = Request(intent=intent, layers=target.paths, nodes=nodes, values=tuple(values.items()), refusal=refusal)
    words = {**slots, "target": target.phrases} if say_target else dict(slots)
    return Draft(
        request=request,
        slots=words,
        build=lambda writer: edit_layers(writer, anatomy, target.layers, edit),
        layers=target.layers,
        edit=edit,
        exact=exact or (target.exact and say_target),
    )


def refused(draft: Draft, refusal: str) -> Draft:
    """The same words, refused before any step."""
    return replace(draft, request=replace(draft.request, refusal=refusal), build=None, edit=None)


def refusal_draft(
    intent: str, why: str, slots: Mapping[str, Phrases], *, values: Mapping[str, Any] | None = None, exact: bool = False
) -> Draft:
    request = Request(intent=intent, values=tuple((values or {}).items()), refusal=why)
    return Draft(request=request, slots=slots, build=None, exact=exact)


def whole_target(anatomy: Anatomy, fits: Callable[[Layer], bool] = lambda _: True) -> Target | None:
    """Every layer that fits, for a sentence that names no target."""
    layers = tuple(layer for layer in anatomy.layers if fits(layer))
    if not layers:
        return None
    return Target(kind="unsaid", layers=layers, phrases=Phrases(()), whole=True)


def target_or_all(
    anatomy: Anatomy, rng: random.Random, fits: Callable[[Layer], bool], unsaid: float = 0.12
) -> tuple[Target | None, bool]:
    """A target that is said, or with probability `unsaid` all layers without saying so; and whether it is said."""
    if rng.random() < unsaid:
        return whole_target(anatomy, fits), False
    return pick_target(anatomy, rng, fits), True


def missing_target(anatomy: Anatomy, rng: random.Random) -> Phrases | None:
    """Words for a layer that the model does not have."""
    if not anatomy.layers:
        return None
    side = rng.choice(anatomy.sides) if anatomy.sides else ""
    top = max((x.index for x in anatomy.layers if x.side == side), default=0)
    word = f"{side} " if side else ""
    stages = sorted({x.stage for x in anatomy.layers if x.side == side})
    if stages[-1] >= 0:
        return _missing_stage(anatomy, stages, rng)
    k = top + rng.choice([1, 1, 2, 3, 5, 10, rng.randrange(4, 90)])
    one = rng.choice(["layer", "block", "transformer block" if anatomy.has_attention else "block"])
    stem = anatomy.layers[-1].stem
    seen = [
        f"{word}{one} {k}",
        f"{word}{one} number {k}",
        f"{word}{one} #{k}",
        f"{word}{one}s {max(top - 1, 0)} to {k}",
        f"{stem}.{k}",
    ]
    more = absent_phrases(f"{word}{one}", k, max(top - 1, 0))
    fresh = fresh_phrases("index", one=f"{word}{one}", many=f"{word}{one}s", of="", i=k)
    return Phrases((*seen * 4, *more), (f"the {word}{one} with index {k}", f"{word}{one} no. {k}"), fresh)


def _missing_stage(anatomy: Anatomy, stages: list[int], rng: random.Random) -> Phrases:
    """Words for a stage, or for a layer of a stage, that is not there."""
    stage = rng.choice(stages)
    if rng.random() < 0.5:
        k = stages[-1] + rng.choice([1, 1, 2, 3, 6])
        fresh = fresh_phrases("stage", one="block", many="blocks", name=f"stage {k}")
        seen = (f"stage {k}", f"all blocks of stage {k}", f"the last block of stage {k}")
        return Phrases(seen, (f"stage no. {k}",), fresh)
    layer = max((x for x in anatomy.layers if x.stage == stage), key=lambda x: x.index)
    k = layer.index + rng.choice([1, 1, 2, 5, 10])
    return Phrases(
        (f"block {k} of stage {stage}", f"layer {k} in stage {stage}", f"{layer.stem}.{k}"),
        (f"block no. {k} of stage {stage}",),
        fresh_phrases("index", one="block", many="blocks", of=f" of stage {stage}", i=k),
    )


def out_of_range(intent: str, slots: Callable[[random.Random], Mapping[str, Phrases]]) -> Propose:
    """A refusal for a layer that is not there."""

    def propose(anatomy: Anatomy, rng: random.Random) -> Draft | None:
        target = missing_target(anatomy, rng)
        if target is None:
            return None
        return refusal_draft(intent, "no_such_target", {**slots(rng), "target": target}, exact=True)

    return propose
