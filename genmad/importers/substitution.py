"""Forward substitution that a model writes out row by row, as one triangular solve.

The chunked delta rule inverts I - L for a strictly lower triangular L [n, n] in a loop over rows (arXiv 2412.06464,
section 3.2): `a[..., i, :i] = a[..., i, :i] + (a[..., i, :i, None] * a[..., :i, :i]).sum(-2)`, from a = L to
(I - L)^-1 - I. Unrolled over 64 rows these are a thousand records; what they compute is tried on numbers and written
down as `solve_triangular`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genmad.importers.evaluate import ConstantEvaluator
from genmad.importers.records import Record, Ref, Trace, TracedValue
from genmad.importers.report import UnsupportedError

# Shorter loops are left as they are.
_LEAST = 8


def solve_substitutions(trace: Trace) -> int:
    """Gives the result of every such loop by a triangular solve; how many there were."""
    makers = {number: record for record in trace.records for number in record.outputs}
    found = [chain for chain in _chains(trace) if _is_substitution(trace, makers, chain)]
    for chain in found:
        place = next(i for i, record in enumerate(trace.records) if record is chain[-1])
        trace.records[place : place + 1] = _solved(trace, chain)
    return len(found)


def _chains(trace: Trace) -> list[list[Record]]:
    """Assignments to rows 1, 2, ... n - 1 of one matrix [..., n, n], up to the diagonal, in a row."""
    open_chains: dict[int, list[Record]] = {}
    done: list[list[Record]] = []
    for record in trace.records:
        if record.target != "setitem" or not isinstance(record.args[0], Ref):
            continue
        start = record.args[0].number
        chain = [*open_chains.pop(start, []), record]
        if record.args[1] != (Ellipsis, len(chain), slice(None, len(chain), None)):
            continue
        shape = trace.values[start].shape
        if len(chain) == shape[-1] - 1 == shape[-2] - 1:
            done += [chain] if len(chain) >= _LEAST else []
        else:
            open_chains[record.outputs[0]] = chain
    return done


def _is_substitution(trace: Trace, makers: dict[int, Record], chain: list[Record]) -> bool:
    """Whether the loop starts from a strictly lower triangle and computes what the solve computes, on numbers."""
    start, value = chain[0].args[0].number, trace.values[chain[0].args[0].number]
    if value.dtype != torch.float32 or not _is_strictly_lower(trace, makers, start):
        return False
    with torch._C.DisableTorchFunction():
        lower = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).mul(0.1).tril(-1)
        evaluate = ConstantEvaluator(trace, everything=True)
        evaluate.done[start] = lower
        try:
            for record in chain:  # one by one: a call for the last of them would recurse through all
                given = evaluate(record.outputs[0])
        except (UnsupportedError, RuntimeError, TypeError, IndexError):
            return False
        eye = torch.eye(value.shape[-1])
        want = torch.linalg.solve_triangular(eye - lower, eye, upper=False, unitriangular=True) - eye
        return torch.allclose(given, want, atol=1e-5)


def _is_strictly_lower(trace: Trace, makers: dict[int, Record], number: int) -> bool:
    """Whether a value is zero on and above the diagonal, by the function that made it."""
    record = makers.get(number)
    if record is None:
        return False
    if record.target in ("neg", "__neg__"):
        return _is_strictly_lower(trace, makers, record.args[0].number)
    if record.target == "tril":
        return (*record.args[1:], record.kwargs.get("diagonal", 0))[0] == -1
    if record.target != "masked_fill" or record.args[2] != 0 or not isinstance(record.args[1], Ref):
        return False
    mask = record.args[1].number
    if trace.values[mask].kind != "constant":
        return False
    with torch._C.DisableTorchFunction():
        hidden: Tensor = ConstantEvaluator(trace)(mask).bool()
        return bool(hidden[..., torch.ones(hidden.shape[-2:], dtype=torch.bool).triu()].all())


def _solved(trace: Trace, chain: list[Record]) -> list[Record]:
    """solve(I - L, I) - I, with the number of the loop's result."""
    start, call = chain[0].args[0], chain[0].call
    shape = trace.values[start.number].shape

    def computed(target: str, path: str, func: Callable[..., Any], args: Any, kwargs: Any, end: int = -1) -> Ref:
        value = TracedValue(shape=shape, dtype=torch.float32, kind="computed")
        if end < 0:
            trace.values.append(value)
        number = end if end >= 0 else len(trace.values) - 1
        made.append(Record(target=target, path=path, func=func, args=args, kwargs=kwargs, outputs=(number,), call=call))
        return Ref(number)

    made: list[Record] = []
    eye = Ref(len(trace.values))
    trace.values.append(TracedValue(shape=shape[-2:], dtype=torch.float32, kind="constant"))
    words = {"dtype": torch.float32}
    made.append(Record(
        target="eye", path="torch.eye", func=torch.eye, args=(shape[-1],), kwargs=words, outputs=(eye.number,),
        call=call, is_constant=True,
    ))  # fmt: skip
    system = computed("sub", "torch.sub", torch.sub, (eye, start), {})
    sides = {"upper": False, "unitriangular": True}
    solve = torch.linalg.solve_triangular
    inverse = computed("solve_triangular", "torch.linalg.solve_triangular", solve, (system, eye), sides)
    computed("sub", "torch.sub", torch.sub, (inverse, eye), {}, chain[-1].outputs[0])
    return made
