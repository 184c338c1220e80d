"""`genmad eval predictor --protocol P`: predictors of architectures on tables of real labels."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from genmad.ir import Diagnostic, GenmadError

# Protocol -> module:function. Loaded when it is asked for.
PROTOCOLS: Mapping[str, str] = {
    "nb201-half": "genmad.evals.predictor_tables:run_nb201_half",
    "nb201-whole": "genmad.evals.predictor_tables:run_nb201_whole",
    "nb101-half": "genmad.evals.predictor_tables:run_nb101_half",
    "ofa-hops": "genmad.evals.predictor_hops:run_ofa_hops",
    "few-shot": "genmad.evals.predictor_hops:run_few_shot",
    "hwgpt": "genmad.evals.predictor_spaces:run_hwgpt",
    "swap": "genmad.evals.predictor_swap:run_swap",
    "build": "genmad.evals.predictor_build:run_build",
    "pareto": "genmad.evals.predictor_pareto:run_pareto",
    "cost": "genmad.evals.predictor_hops:run_cost",
    "latency": "genmad.evals.predictor_latency:run_latency",
}

# Protocols that also draw a picture.
DRAWN = ("pareto",)


class ProtocolError(GenmadError):
    """An option that no protocol takes, or a protocol that there is not."""

    exit_code = 2

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


def run(
    *, quick: bool = False, seed: int = 0, n: int | None = None, checkpoint: str | None = None,
    protocol: str | None = None, data: str | None = None, picture: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The report of a protocol. `n` is the number of draws of labels (seeds). Raises `ProtocolError` without a protocol
    that there is, or with a checkpoint: predictors are trained here."""
    if protocol is None or protocol not in PROTOCOLS:
        expected = f"one of {', '.join(PROTOCOLS)}"
        got = repr(protocol) if protocol else "no protocol"
        fix = "genmad eval predictor --protocol nb201-half"
        raise ProtocolError(Diagnostic(where="--protocol", got=got, expected=expected, fix=fix))
    if checkpoint is not None:
        where, fix = "genmad eval predictor", "leave --checkpoint out"
        raise ProtocolError(Diagnostic(where=where, got="--checkpoint", expected="predictors trained here", fix=fix))
    module, function = PROTOCOLS[protocol].split(":")
    more: dict[str, Any] = {}
    if picture is not None:
        if protocol not in DRAWN:
            expected = f"it with {', '.join(DRAWN)}"
            raise ProtocolError(
                Diagnostic(where="--picture", got=f"it with {protocol}", expected=expected, fix="leave it out")
            )
        more["picture"] = picture
    found: dict[str, Any] = getattr(import_module(module), function)(quick=quick, seed=seed, n=n, data=data, **more)
    return found
