"""Level 3: a cost report against a budget."""

from collections.abc import Callable, Iterator

from genmad.cost import CostReport, CostRow
from genmad.ir import Diagnostic
from genmad.validate.levels import Budget


def budget_problems(report: CostReport, budget: Budget) -> Iterator[Diagnostic]:
    """Every bound that is exceeded, with the op that contributes most."""
    bounds: tuple[tuple[str, int, int | None, Callable[[CostRow], int] | None], ...] = (
        ("parameters", report.num_params, budget.max_params, lambda row: row.num_params),
        ("MACs", report.num_macs, budget.max_macs, lambda row: row.num_macs),
        ("bytes of activations at peak", report.peak_activation_bytes, budget.max_peak_activation_bytes, _bytes),
        ("ops on the longest path", report.depth, budget.max_depth, None),
        ("ops", report.num_nodes, budget.max_nodes, None),
    )
    for what, got, most, share in bounds:
        if most is None or got <= most:
            continue
        fix = ""
        if share is not None and report.rows:
            row = max(report.rows, key=share)
            fix = f'the largest share is {row.op} "{row.path}" with {share(row):,}'
        yield Diagnostic(where="budget", got=f"{got:,} {what}", expected=f"at most {most:,}", fix=fix)
    if budget.allowed_ops is not None:
        for row in report.rows:
            if row.op not in budget.allowed_ops:
                expected = f"one of {', '.join(sorted(budget.allowed_ops))}"
                yield Diagnostic(where=f'{row.op} "{row.path}"', got="an op outside the budget", expected=expected)


def _bytes(row: CostRow) -> int:
    return row.output_bytes
