"""Sources that cannot be read, end to end: exit code 3, a message that says what to do, nothing written, no code run.

Only the generator is a stand-in, and it is never reached.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper, save

import genmad.session
from genmad.cli import main

PROMPT = "add local attention to the last layer"


class NeverAsked:
    """Fails the test when a source that cannot be read gets as far as the generator."""

    def edit(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the generator was asked")


def plain_model(nodes: list[Any], functions: list[Any] | None = None, initializers: list[Any] | None = None) -> Any:
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        initializer=initializers or [],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=10)


def missing(folder: Path) -> str:
    return str(folder / "nowhere.onnx")


def truncated(folder: Path) -> str:
    save(plain_model([helper.make_node("Relu", ["x"], ["y"])]), folder / "cut.onnx")
    data = (folder / "cut.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(data[: len(data) // 2])
    return str(folder / "cut.onnx")


def outside(folder: Path) -> str:
    """A weight that lies in ../secret: reading it would hand a stranger's file over to whoever gets the result."""
    (folder.parent / "secret").write_bytes(bytes(64))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "64")):
        weight.external_data.add(key=key, value=value)
    model = plain_model([helper.make_node("MatMul", ["x", "w"], ["y"])], initializers=[weight])
    (folder / "outside.onnx").write_bytes(model.SerializeToString())
    return str(folder / "outside.onnx")


def cyclic(folder: Path) -> str:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    nodes.append(helper.make_node("Relu", ["b"], ["y"]))
    (folder / "cyclic.onnx").write_bytes(plain_model(nodes).SerializeToString())
    return str(folder / "cyclic.onnx")


def wrongly_typed(folder: Path) -> str:
    """A matrix product whose inner sizes differ."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [7, 4], [0.0] * 28)
    model = plain_model([helper.make_node("MatMul", ["x", "w"], ["y"])], initializers=[weight])
    (folder / "typed.onnx").write_bytes(model.SerializeToString())
    return str(folder / "typed.onnx")


def bomb(folder: Path) -> str:
    """Forty functions, each calling the one before twice: two to the fortieth nodes when written out."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    functions = [helper.make_function("local", "f0", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets)]
    for index in range(1, 40):
        calls = [
            helper.make_node(f"f{index - 1}", ["x"], ["m"], domain="local"),
            helper.make_node(f"f{index - 1}", ["m"], ["y"], domain="local"),
        ]
        functions.append(helper.make_function("local", f"f{index}", ["x"], ["y"], calls, opsets))
    model = plain_model([helper.make_node("f39", ["x"], ["y"], domain="local")], functions)
    (folder / "bomb.onnx").write_bytes(model.SerializeToString())
    return str(folder / "bomb.onnx")


def pickled(folder: Path) -> str:
    (folder / "model.pt").write_bytes(b"\x80\x04.")
    return str(folder / "model.pt")


def bare_folder(folder: Path) -> str:
    (folder / "empty").mkdir()
    return str(folder / "empty")


SOURCES: list[tuple[Callable[[Path], str], str]] = [
    (lambda _: "gpt22", "gpt2"),
    (lambda _: "no_such_module_anywhere:build", "no_such_module_anywhere"),
    (missing, "nowhere.onnx"),
    (truncated, "cut.onnx"),
    (outside, "secret"),
    (cyclic, "a cycle"),
    (wrongly_typed, "MatMul"),
    (bomb, "nodes"),
    (pickled, "safetensors"),
    (bare_folder, "config.json"),
]
NAMES = [
    "unknown id", "unknown module", "missing onnx", "truncated onnx", "data outside", "cyclic", "wrongly typed", "bomb",
    "pickle", "bare folder",
]  # fmt: skip


@pytest.mark.parametrize(("make", "text"), SOURCES, ids=NAMES)
def test_an_unreadable_source_is_code_three_and_leaves_nothing(
    make: Callable[[Path], str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "work"
    folder.mkdir()
    source = make(folder)
    before = set(folder.rglob("*"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(genmad.session, "load_editor", lambda _: NeverAsked())
    assert main(["edit", source, PROMPT, "-o", "out"]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert text in shown.err
    assert "Traceback" not in shown.err
    assert main(["edit", source, PROMPT, "-o", "out", "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit_code"] == 3
    assert error["where"]
    assert error["got"]
    assert set(folder.rglob("*")) == before
