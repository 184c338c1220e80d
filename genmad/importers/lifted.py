"""What counts as lifted.

A place in the running model is lifted when its op is one that a person would draw: a layer, an activation, a sum of two
streams, a join, a choice of positions. It is primitive when it is a torch function that no op stands for (`TorchCall`),
or a fragment of a layer that a lifting pass should have put together: statistics, powers and roots of a norm, the
exponentials of a softmax, a comparison or a position count of a mask.
"""

from collections.abc import Mapping

# Ops that stand for a piece of a layer rather than for a layer.
FRAGMENTS = frozenset({
    "TorchCall", "OnnxCall", "Rsqrt", "Reciprocal", "Variance", "Erf", "Exp", "Log", "Sqrt", "Pow", "PowScalar",
    "Square", "Sign", "Floor", "Mod", "Abs", "Neg", "Sin", "Cos", "Equal", "Less", "LessOrEqual", "Greater",
    "GreaterOrEqual", "And", "Or", "Not", "Where", "CumSum", "Triu", "Tril", "Clip",
})  # fmt: skip


def share_of(ops: Mapping[str, int]) -> float:
    """Share of places whose op is no fragment; 1 for a graph without places."""
    total = sum(ops.values())
    return 1.0 - sum(count for op, count in ops.items() if op in FRAGMENTS) / total if total else 1.0
