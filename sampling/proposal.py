"""One answer to a prompt."""

from dataclasses import dataclass

from genmad.ir.script import EditScript, EditState


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way to take the prompt, with the model's probability."""

    name: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One answer to a prompt.

    Attributes:
        status: `ok`, `refused`, `ambiguous` or `failed` (the model could not finish a valid step).
        script, state: the steps and what they made of the graph; None unless `ok`.
        confidence: how often an answer like this is right: the probability of the whole script under the model,
            readings included, calibrated where the checkpoint says how.
        log_prob: logarithm of that probability, as it is.
        reading: how the prompt was taken; `readings` names the others that have some probability.
        reason: why it was refused; `blocked`: what stood in the way, in words.
    """

    status: str
    script: EditScript
    state: EditState | None
    confidence: float
    log_prob: float
    reading: str = ""
    readings: tuple[Reading, ...] = ()
    reason: str = ""
    blocked: str = ""
    num_tokens: int = 0
    time_s: float = 0.0
