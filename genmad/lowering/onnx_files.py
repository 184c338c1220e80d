"""Weights in ONNX files: initializers, and external data that is written tensor by tensor."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmad.ir.graph import Graph
from genmad.ir.types import DType, TensorType
from genmad.lowering.errors import LoweringError
from genmad.lowering.onnx_body import element_type

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, TensorProto

EXTERNAL_DATA_THRESHOLD = 64 * 2**20
_ALIGNMENT = 4096  # so that a reader may map the tensors
_ITEM_BYTES = {DType.FLOAT64: 8, DType.INT64: 8, DType.COMPLEX64: 8, DType.FLOAT32: 4, DType.INT32: 4}
_ITEM_BYTES |= {DType.FLOAT16: 2, DType.BFLOAT16: 2, DType.INT16: 2, DType.INT8: 1, DType.UINT8: 1, DType.BOOL: 1}
_ITEM_BYTES |= {DType.UINT16: 2, DType.UINT32: 4, DType.UINT64: 8}


def size_bytes(type_: TensorType) -> int:
    """Bytes of a tensor of that type; its shape must be of integers."""
    count = type_.numel
    assert isinstance(count, int), f"a parameter of type {type_}"
    return count * _ITEM_BYTES[type_.dtype]


def _bytes_of(value: Any) -> "np.ndarray":
    """The elements of an array or torch tensor as a contiguous array of bytes, not copied where possible."""
    import numpy as np

    if hasattr(value, "detach"):
        import torch

        tensor = value.detach().cpu().contiguous()
        return tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _type_text(value: Any) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype}[{','.join(str(int(d)) for d in value.shape)}]"


def check_weights(params: Mapping[str, TensorType], weights: Mapping[str, Any]) -> None:
    """Raises `LoweringError` listing every parameter whose weight is missing or of another type."""
    problems = []
    for name, type_ in params.items():
        if name not in weights:
            problems.append(f"{name}: got no weight; expected {type_}")
        elif _type_text(weights[name]) != str(type_):
            problems.append(f"{name}: got {_type_text(weights[name])}; expected {type_}")
    if problems:
        more = f"\n... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise LoweringError("weights do not fit the graph\n" + "\n".join(problems[:20]) + more)


def initializer(name: str, type_: TensorType, value: Any) -> "TensorProto":
    """The weight as a tensor that holds its own bytes."""
    from onnx import TensorProto

    raw = _bytes_of(value).tobytes()
    return TensorProto(name=name, data_type=element_type(type_.dtype), dims=_dims(type_), raw_data=raw)


def _dims(type_: TensorType) -> list[int]:
    return [d for d in type_.shape if isinstance(d, int)]


def save_onnx(
    source: "Graph | ModelProto",
    path: str | os.PathLike[str],
    weights: Mapping[str, Any] | None = None,
    *,
    external_data_threshold: int = EXTERNAL_DATA_THRESHOLD,
) -> tuple[Path, ...]:
    """Writes the model, with its weights in `NAME.onnx.data` beside it when they are larger than the threshold.

    One weight at a time is in memory beside what `weights` itself holds, which may load lazily. Files appear under
    their names only when complete.

    Returns:
        The files written.

    Raises:
        LoweringError: as `to_onnx`; OSError: the folder cannot be written.
    """
    from genmad.lowering.to_onnx import to_onnx, write_model

    target = Path(path)
    if not isinstance(source, Graph):
        return (_write(target, [source.SerializeToString()]),)
    model, params = write_model(source)
    if weights is None or sum(map(size_bytes, params.values())) <= external_data_threshold:
        return (_write(target, [to_onnx(source, weights=weights).SerializeToString()]),)
    check_weights(params, weights)
    data = target.with_name(target.name + ".data")
    model.graph.initializer.extend(_external(params, data.name))
    written = _write(data, _chunks(params, weights))
    return (_write(target, [model.SerializeToString()]), written)


def _external(params: Mapping[str, TensorType], location: str) -> "Iterator[TensorProto]":
    from onnx import TensorProto

    offset = 0
    for name, type_ in params.items():
        offset += -offset % _ALIGNMENT
        tensor = TensorProto(name=name, data_type=element_type(type_.dtype), dims=_dims(type_))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", size_bytes(type_))):
            tensor.external_data.add(key=key, value=str(value))
        offset += size_bytes(type_)
        yield tensor


def _chunks(params: Mapping[str, TensorType], weights: Mapping[str, Any]) -> Iterator[Any]:
    offset = 0
    for name, type_ in params.items():
        gap = -offset % _ALIGNMENT
        yield bytes(gap)
        yield _bytes_of(weights[name]).data
        offset += gap + size_bytes(type_)


def _write(path: Path, chunks: Any) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
