"""Sources that cannot be read, end to end: exit code 3, a message that says what to do, nothing written, no code run.

Only the generator is a stand-in, and it is never reached.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper, save

import genmad.importers.lazy_weights
import genmad.session
from genmad.cli import main
from genmad.importers.from_hf import load_source
from genmad.importers.report import SourceError

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


def cut_weights(folder: Path) -> str:
    """A config with a safetensors file that ends early: found out when the weights are first needed."""
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=8).save_pretrained(folder / "cut")
    (folder / "cut/model.safetensors").write_bytes(b"\xff" * 16)
    return str(folder / "cut")


def module_source(code: str, call: str) -> Callable[[Path], str]:
    """A module of the user's in the working folder, under a name of its own."""

    def make(folder: Path) -> str:
        name = f"user_{hashlib.sha1(code.encode()).hexdigest()[:12]}"
        (folder / f"{name}.py").write_text("from torch import nn, randn\n" + code)
        return f"{name}:{call}"

    return make


NET = """class Net(nn.Module):
    dummy_inputs = {DUMMY}
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
    def forward(self, image):
        return self.conv(image)
"""

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
    (lambda _: "./no/such/folder", "no such file or folder"),
    (lambda _: "model.safetensors", "the folder that holds config.json"),
    (module_source("raise ValueError('at import')", "make"), "at import"),
    (module_source("def make(): raise ValueError('in the call')", "make"), "in the call"),
    (module_source(NET.replace("DUMMY", "'picture': randn(1, 3, 8, 8)"), "Net"), "image"),
    (module_source(NET.replace("DUMMY", "'image': randn(1, 5, 8, 8)"), "Net"), "forward fails"),
]
NAMES = [
    "unknown id", "unknown module", "missing onnx", "truncated onnx", "data outside", "cyclic", "wrongly typed", "bomb",
    "pickle", "bare folder", "no folder", "bare weights", "module that fails", "function that fails",
    "inputs of another name", "inputs of another shape",
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
    assert error["fix"]
    assert set(folder.rglob("*")) == before


def test_weights_that_are_cut_short_or_missing_are_an_error_and_never_random(tmp_path: Path) -> None:
    """transformers fills what a file lacks with random numbers and says so in a log line only."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, GPT2LMHeadModel

    folder = Path(cut_weights(tmp_path))
    with pytest.raises(SourceError, match="safetensors that fit"):
        dict(load_source(str(folder)).parameters)
    GPT2LMHeadModel(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights  # tied: no loss
    assert len(dict(load_source(str(folder)).parameters)) == len(weights)
    del weights["transformer.ln_f.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"no weights for transformer\.ln_f\.bias"):
        dict(load_source(str(folder)).parameters)


def test_weights_that_do_not_fit_into_memory_are_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Llama of 27 GB, exported on a machine with 20 GB, was killed by the system without a word."""
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=8).save_pretrained(tmp_path)
    monkeypatch.setattr(genmad.importers.lazy_weights, "free_memory", lambda: 1000)
    with pytest.raises(SourceError, match=r"GB of weights.*--no-weights"):
        load_source(str(tmp_path))
    assert load_source(str(tmp_path), weights=False).report.weights == "none"
