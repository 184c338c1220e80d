"""What an edit example is: the sentence, what it asks for, and the script that does it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genmad.ir.script import EditScript, Replace, SetAttrs

READINGS = (
    "branch", "convert", "insert", "remove", "duplicate", "replace", "resize", "adapt", "connect", "complete",
)  # fmt: skip
REFUSALS = ("no_such_target", "not_divisible", "not_applicable", "not_understood", "already_so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, in structure: the ground truth for post-conditions.

    Attributes:
        intent: name of the intent; `both` for two requests in one sentence, `nonsense` for none.
        layers: dotted paths of the targeted calls (`transformer.h.11`) in execution order; empty when it is about
            nodes named in `nodes` or about the whole model.
        nodes: dotted paths of the targeted nodes, where named nodes or kinds of nodes are meant.
        values: what the result must satisfy, such as `(("window", 128),)`; None where the prompt leaves it open.
            For `both`: `(("parts", (first, second)),)`.
        refusal: empty, or one of `REFUSALS`.
    """

    intent: str
    layers: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    values: tuple[tuple[str, Any], ...] = ()
    refusal: str = ""

    def __post_init__(self) -> None:
        if self.refusal and self.refusal not in REFUSALS:
            raise ValueError(f"refusal: got {self.refusal!r}; expected one of {', '.join(REFUSALS)}")

    @property
    def value_map(self) -> Mapping[str, Any]:
        return dict(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditExample:
    """One sentence over one graph, and the answer to it.

    Attributes:
        prompt: what the user types.
        request: what it means.
        reading: one of `READINGS`; "" where nothing can be understood.
        script: the steps; for a number that cannot be met the steps before it; None for other refusals.
        blocked: for a number that cannot be met, the step that would have set it.
        alternatives: (reading, probability) of the other ways to read the prompt.
        phrasing: identity of the template, `lora.s3`; `u` marks a held-out one.
        seen: whether only phrasings of the training set were used.
        family: model family of the graph, "" when unknown.
    """

    prompt: str
    request: Request
    reading: str
    script: EditScript | None = field(repr=False)
    blocked: SetAttrs | Replace | None = field(default=None, repr=False)
    alternatives: tuple[tuple[str, float], ...] = ()
    phrasing: str
    seen: bool
    family: str = ""
