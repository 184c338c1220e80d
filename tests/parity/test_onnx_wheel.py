"""A sample of the model files inside the onnx wheel: they come in, go out again and compute the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from genmad.evals import onnx_files
from genmad.evals.onnx_cases import OnnxCase, file_cases, runtime_cases

PICKED = (
    "light/light_squeezenet", "simple/test_expand_shape_model4", "simple/test_sequence_model4", "simple/test_shrink",
    "pytorch-converted/test_BatchNorm2d_eval", "pytorch-converted/test_Conv3d_groups", "pytorch-converted/test_GLU_dim",
    "pytorch-converted/test_PReLU_2d_multiparam", "pytorch-converted/test_Softmin",
    "pytorch-operator/test_operator_addmm",
    "pytorch-operator/test_operator_symbolic_override", "pytorch-operator/test_operator_maxpool",
)  # fmt: skip


def cases() -> Iterator[OnnxCase]:
    yield from (case for case in file_cases() if case.name in PICKED)
    yield from (case for case in runtime_cases() if case.name == "onnxruntime/sigmoid")


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_a_file_of_the_wheel_round_trips(case: OnnxCase) -> None:
    result = onnx_files.measure(case, seed=0)
    assert (result.imported, result.lowered, result.same, result.error) == (True, True, True, "")


def test_results_that_are_written_down_are_not_measured_again(tmp_path: Path) -> None:
    done = tmp_path / "done.jsonl"
    case = next(case for case in cases() if case.name == "simple/test_shrink")
    first = onnx_files.run(cases=[case], done=done)

    def fail() -> bytes:
        raise AssertionError("measured again")

    again = onnx_files.run(cases=[OnnxCase(name=case.name, source=case.source, load=fail)], done=done)
    assert first["metrics"] == again["metrics"]
    assert first["metrics"]["onnx_imported"] == first["metrics"]["same"] == first["metrics"]["files"] == 1


def test_a_file_that_computes_something_else_is_not_counted_as_the_same() -> None:
    """The comparison must be able to fail: the stored outputs of one file do not fit another."""
    by_name = {case.name: case for case in cases()}
    wrong = by_name["simple/test_shrink"].data
    case = by_name["pytorch-converted/test_Softmin"]
    result = onnx_files.measure(OnnxCase(name="x", source="x", load=case.load, data=wrong), seed=0)
    assert result.imported
    assert result.same is not True
