"""ONNX models to import, with inputs: those inside the onnx and onnxruntime wheels, and exports made by torch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

Arrays = list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxCase:
    """One model file.

    Attributes:
        name: unique over all sources.
        source: `onnx/node`, `onnx/simple`, `onnxruntime`, `torch/dynamo-18` ...
        load: gives the file's bytes and the folder beside it, where it has one.
        data: gives pairs of input and expected output arrays; empty where none are stored.
        rtol: relative tolerance that the stored outputs ask for.
    """

    name: str
    source: str
    load: Callable[[], bytes]
    data: Callable[[], list[tuple[Arrays, Arrays]]] = field(default=list)
    rtol: float = 1e-3


def wheel_cases() -> Iterator[OnnxCase]:
    """Every model that the installed onnx and onnxruntime packages bring."""
    yield from file_cases()
    yield from runtime_cases()
    yield from node_cases()


def file_cases() -> Iterator[OnnxCase]:
    """The files under onnx/backend/test/data."""
    import onnx

    root = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for path in sorted(root.rglob("*.onnx")):
        kind = path.relative_to(root).parts[0]
        name = path.stem if kind == "light" else path.parent.name
        yield OnnxCase(
            name=f"{kind}/{name}", source=f"onnx/{kind}", load=path.read_bytes, data=partial(_stored_sets, path)
        )


def runtime_cases() -> Iterator[OnnxCase]:
    """The files inside the onnxruntime package."""
    import onnxruntime

    for path in sorted(Path(onnxruntime.__file__).parent.rglob("*.onnx")):
        yield OnnxCase(name=f"onnxruntime/{path.stem}", source="onnxruntime", load=path.read_bytes)


def node_cases() -> Iterator[OnnxCase]:
    """The models that the onnx package makes for its operator tests, one operator (or a few) each."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    for case in cases:
        if case.model is not None:
            yield OnnxCase(
                name=f"node/{case.name}",
                source="onnx/node",
                load=case.model.SerializeToString,
                data=partial(_pairs, case.data_sets),
                rtol=float(case.rtol),
            )


def _pairs(sets: Any) -> list[tuple[Arrays, Arrays]]:
    return [(list(inputs), list(outputs)) for inputs, outputs in sets or ()]


def _stored_sets(path: Path) -> list[tuple[Arrays, Arrays]]:
    made = []
    for folder in sorted(path.parent.glob("test_data_set_*")):
        pairs = [[_array(p) for p in sorted(folder.glob(f"{kind}_*.pb"), key=_number)] for kind in ("input", "output")]
        made.append((pairs[0], pairs[1]))
    return made


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _array(path: Path) -> Any:
    """The stored tensor; None for a sequence."""
    import onnx
    from onnx import numpy_helper

    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        return numpy_helper.to_array(tensor)
    except Exception:  # a sequence or optional in the same file format
        return None


def random_feeds(inputs: Mapping[str, tuple[str, tuple[int, ...]]], seed: int) -> dict[str, Any]:
    """Arrays for inputs of (dtype, shape) by name."""
    import numpy as np

    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for name, (dtype, shape) in inputs.items():
        if dtype == "bool":
            made[name] = rng.random(shape) < 0.5
        elif dtype.startswith(("int", "uint")):
            made[name] = rng.integers(0, 3, shape).astype(dtype)
        else:
            made[name] = rng.standard_normal(shape).astype(dtype)
    return made
