"""Post-conditions of requests to save: the cost before and after decides."""

from collections.abc import Callable, Iterator

from genmad.cost import cost_of, symbols_of
from genmad.cost.report import CostReport, CostRow
from genmad.evals.case import Case, Excess
from genmad.evals.flat import FlatGraph, Key
from genmad.evals.untouched import Scope
from genmad.ops import OPSET


def _spent(flat: FlatGraph, metric: str, keys: tuple[Key, ...]) -> float:
    """Cost of the calls that are there; of the whole model where no call is named."""
    report = cost_of(flat.graph, OPSET, dict.fromkeys(symbols_of(flat.graph), 128) | {"batch": 1})
    number: Callable[[CostRow], int] = (lambda r: r.num_macs) if metric == "macs" else (lambda r: r.num_params)
    return sum(number(row) for row in _rows(flat, report, keys))


def _rows(flat: FlatGraph, report: CostReport, keys: tuple[Key, ...]) -> Iterator[CostRow]:
    if not keys:
        yield from report.rows
    for key in keys:
        if key in flat.calls:
            yield from report.under(flat.calls[key].path)


def _removable(case: Case) -> tuple[Key, ...]:
    """The layers that may go: those named, else all numbered calls."""
    numbered = (key for key, call in case.before.calls.items() if call.path.rpartition(".")[2].isdigit())
    return case.layers or tuple(numbered)


def check_budget(case: Case) -> Iterator[str]:
    metric, limit = str(case.value("metric")), case.value("limit")
    before, after = (_spent(flat, metric, case.layers) for flat in (case.before, case.after))
    wanted = limit if limit is not None else before / case.value("over", default=2)
    if after > wanted:
        yield f"{after} {metric} are left, more than {wanted}"
    gone = [key for key in _removable(case) if key not in case.after.calls]
    if case.layers and len(gone) == len(case.layers):
        yield "nothing of the target is left"
    spare = min((_spent(case.before, metric, (key,)) for key in gone), default=0)
    if gone and after + spare <= wanted:
        yield f"{after} {metric} are left, and one layer more would have fitted into {wanted}"
    yield from (Excess(f"{node.path} was added") for node in case.added())


def scope_budget(case: Case) -> Scope:
    gone = [key for key in _removable(case) if key not in case.after.calls]
    return Scope(open=case.open_blocks(gone), leaving=frozenset(gone))
