"""What a graph costs: parameters, multiply-accumulates, peak activation memory, depth."""

from genmad.cost.report import CostReport, CostRow, cost_of
from genmad.cost.sizes import DEFAULT_SIZES, DTYPE_BYTES, sizes_for, symbols_of, type_bytes

__all__ = ["DEFAULT_SIZES", "DTYPE_BYTES", "CostReport", "CostRow", "cost_of", "sizes_for", "symbols_of", "type_bytes"]
