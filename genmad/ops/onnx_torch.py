"""PyTorch expressions of ONNX operators that have no layer-level op: the plain ones, by table."""

from collections.abc import Callable, Mapping
from typing import Any

from genmad.ir.opdef import TorchContext

Writer = Callable[[TorchContext, Mapping[str, Any]], str]


def _plain(source: str) -> Writer:
    """An expression of the inputs `{0}`, `{1}`; only where the operator has no attributes."""

    def write(ctx: TorchContext, attrs: Mapping[str, Any]) -> str:
        return "" if attrs else source.format(*ctx.inputs)

    return write


def _reduce_all(source: str) -> Writer:
    """A reduction over every axis (no axes given)."""

    def write(ctx: TorchContext, attrs: Mapping[str, Any]) -> str:
        if len(ctx.inputs) > 1 or "axes" in attrs or attrs.get("noop_with_empty_axes", 0):
            return ""
        whole = source.format(ctx.inputs[0])
        rank = len(ctx.types[0].shape) if ctx.types[0] is not None else 0
        return f"{whole}.reshape({', '.join(['1'] * rank)})" if attrs.get("keepdims", 1) and rank else whole

    return write


ONNX_TORCH: dict[str, Writer] = {
    "Acos": _plain("torch.acos({0})"),
    "Acosh": _plain("torch.acosh({0})"),
    "Asin": _plain("torch.asin({0})"),
    "Asinh": _plain("torch.asinh({0})"),
    "Atan": _plain("torch.atan({0})"),
    "Atanh": _plain("torch.atanh({0})"),
    "Ceil": _plain("torch.ceil({0})"),
    "Cosh": _plain("torch.cosh({0})"),
    "Det": _plain("torch.linalg.det({0})"),
    "IsNaN": _plain("torch.isnan({0})"),
    "IsInf": _plain("torch.isinf({0})"),
    "NonZero": _plain("torch.nonzero({0}).transpose(0, 1)"),
    "PRelu": _plain("torch.where({0} < 0, {0} * {1}, {0})"),
    "Round": _plain("torch.round({0})"),
    "Sinh": _plain("torch.sinh({0})"),
    "Tan": _plain("torch.tan({0})"),
    "Xor": _plain("torch.logical_xor({0}, {1})"),
    "BitwiseAnd": _plain("torch.bitwise_and({0}, {1})"),
    "BitwiseOr": _plain("torch.bitwise_or({0}, {1})"),
    "BitwiseXor": _plain("torch.bitwise_xor({0}, {1})"),
    "BitwiseNot": _plain("torch.bitwise_not({0})"),
    "ReduceL1": _reduce_all("{0}.abs().sum()"),
    "ReduceL2": _reduce_all("{0}.square().sum().sqrt()"),
    "ReduceProd": _reduce_all("{0}.prod()"),
    "ReduceSumSquare": _reduce_all("{0}.square().sum()"),
    "ReduceLogSum": _reduce_all("{0}.sum().log()"),
    "ReduceLogSumExp": _reduce_all("{0}.exp().sum().log()"),
}
