"""Each command end to end, in one process, on a small model: what it prints, what it writes, and its exit code.

The source and the generator are stand-ins; everything between them is real. Every bad input must leave nothing behind.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import genmad.importers.from_hf
import genmad.lowering.package
import genmad.session
from genmad.cli import main
from genmad.importers.report import Imported, ImportReport, SourceError
from genmad.ir import Diagnostic, Graph, GraphBuilder
from genmad.ir.script import Add, At, EditScript, EditState, Number, ReplaceUses, Step
from genmad.lowering.to_torch import initial_values, parameters
from genmad.ops import OPSET

ROOT = Path(__file__).resolve().parent.parent.parent
PROMPT = "add local attention to the last layer"


def tiny() -> Graph:
    builder = GraphBuilder(OPSET)
    layer = builder.block("layer", x="float32[batch,seq,8]")
    normed = layer.add("LayerNorm", "x", name="ln")
    heads = [layer.add("Linear", normed, name=f"attn.{n}", scope=f"attn.{n}", out_features=8) for n in "qkv"]
    mixed = layer.add("Attention", *heads, name="attn.attention", scope="attn", num_heads=2, causal=True)
    out = layer.add("Linear", mixed, name="attn.out", scope="attn.out", out_features=8)
    layer.finish(layer.add("Add", "x", out, name="add"))
    main_block = builder.block("tiny", ids="int64[batch,seq]")
    value = main_block.add("Embedding", "ids", name="wte", scope="wte", num_embeddings=11, embedding_dim=8)
    for index in range(3):
        value = main_block.add("@layer", value, name=f"h.{index}", scope=f"h.{index}")
    return builder.build(main_block.finish(main_block.add("LayerNorm", value, name="ln_f", scope="ln_f")))


BRANCH: tuple[Step, ...] = (
    At(("h.2",)),
    Add("attn.new_linear", "Linear", ("ln",), (("out_features", Number("channels", "x")),)),
    Add("attn.new_add", "Add", ("attn.out", "attn.new_linear")),
    ReplaceUses("attn.out", "attn.new_add"),
)


SCRIPT = EditScript(steps=BRANCH)


@dataclass(frozen=True)
class FakeReading:
    name: str
    probability: float


@dataclass(frozen=True)
class FakeProposal:
    status: str = "ok"
    script: EditScript = SCRIPT
    state: EditState | None = None
    confidence: float = 0.9
    reading: str = "branch"
    readings: tuple[FakeReading, ...] = (FakeReading("branch", 0.8), FakeReading("convert", 0.2))
    reason: str = ""
    blocked: str = ""


@dataclass
class FakeEditor:
    """Gives the branch, unless told what else to answer; keeps what it was asked."""

    answer: FakeProposal | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    def edit(self, graph: Graph, prompt: str, **options: Any) -> tuple[FakeProposal, ...]:
        self.asked.append({"prompt": prompt, **options})
        if self.answer is not None:
            return (self.answer,)
        return (FakeProposal(state=EditScript(steps=BRANCH).run(graph, OPSET)),)


@dataclass
class Workplace:
    """A folder to write in, the stand-in generator, and a way to run a command."""

    folder: Path
    editor: FakeEditor
    kind: str
    run: Callable[..., tuple[int, str, str]]
    notes: tuple[str, ...] = ()

    @property
    def entries(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workplace:
    monkeypatch.chdir(tmp_path)
    place = Workplace(tmp_path, FakeEditor(), "loaded", lambda *_: (0, "", ""))

    def load_source(source: str, *, inputs: Any = (), weights: bool = True, **_: Any) -> Imported:
        del inputs
        if source != "tiny":
            found = Diagnostic(
                where=f"model {source!r}", got="an unknown id", expected="tiny", fix="did you mean tiny?"
            )
            raise SourceError(found)
        graph = tiny()
        values = dict(initial_values(parameters(graph), 1)) if weights else {}
        report = ImportReport(
            source=source, kind="transformers", weights=place.kind if weights else "none", notes=place.notes
        )
        return Imported(graph=graph, report=report, parameters=values)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        text = capsys.readouterr()
        return code, text.out, text.err

    monkeypatch.setattr(genmad.importers.from_hf, "load_source", load_source)
    monkeypatch.setattr(genmad.session, "load_editor", lambda _: place.editor)
    place.run = run
    return place


def test_edit_prints_the_plan_and_the_diff_and_writes_the_folder(work: Workplace) -> None:
    code, out, err = work.run("edit", "tiny", PROMPT, "-o", "edited/")
    assert code == 0, err
    assert "read as branch: add a branch beside what is there, starting at zero (confidence 90%)" in out
    assert "h.2 (1 of 3 calls of layer): adds Linear(out_features=8, bias), Add" in out
    assert "outputs: unchanged" in out
    assert "another reading: change what is there, in place (20%): --reading convert" in out
    assert "+ attn.new_linear  Linear(out_features=8, bias) -> float32[batch,seq,8]" in out
    assert "wrote edited" in out
    files = {"model.onnx", "model.py", "model.safetensors", "report.json", "recipe.yaml", "README.md"}
    assert work.entries == {"edited", *(f"edited/{name}" for name in files)}


def test_edit_to_one_onnx_file_writes_it_and_the_report(work: Workplace) -> None:
    assert work.run("edit", "tiny", PROMPT, "-o", "x.onnx")[0] == 0
    assert work.entries == {"x.onnx", "x.report.json"}


def test_a_dry_run_writes_nothing_and_needs_no_output(work: Workplace) -> None:
    code, out, _ = work.run("edit", "tiny", PROMPT, "--dry-run")
    assert code == 0
    assert "nothing written" in out
    assert "expected unchanged" in out
    assert work.entries == set()


def test_options_reach_the_generator(work: Workplace) -> None:
    words = ["--at", "h.2", "--reading", "branch", "--samples", "3", "--seed", "7", "--dry-run"]
    assert work.run("edit", "tiny", PROMPT, *words)[0] == 0
    assert work.editor.asked == [{"prompt": PROMPT, "at": "h.2", "reading": "branch", "samples": 3, "seed": 7}]


def test_no_weights_leaves_the_weights_out(work: Workplace) -> None:
    assert work.run("edit", "tiny", PROMPT, "-o", "edited", "--no-weights")[0] == 0
    assert "edited/model.safetensors" not in work.entries
    assert json.loads((work.folder / "edited/report.json").read_text())["source"]["weights"] == "none"


def test_random_weights_are_said_loudly(work: Workplace) -> None:
    work.kind = "random"
    code, _, err = work.run("edit", "tiny", PROMPT, "-o", "edited")
    assert code == 0
    assert "RANDOM WEIGHTS" in err
    assert "**The weights are random**" in (work.folder / "edited/README.md").read_text()


def test_what_the_import_chose_is_said_loudly_and_reported(work: Workplace) -> None:
    """A default config in the place of a model that is not in the cache must not pass for that model."""
    work.notes = ("org/tiny is not in the local cache: this is the default config",)
    code, _, err = work.run("edit", "tiny", PROMPT, "-o", "edited", "--no-weights")
    assert code == 0
    assert "NOTE: org/tiny is not in the local cache" in err
    assert json.loads((work.folder / "edited/report.json").read_text())["notes"] == list(work.notes)
    assert "org/tiny is not in the local cache" in (work.folder / "edited/README.md").read_text()


def test_a_recipe_repeats_the_edit(work: Workplace) -> None:
    assert work.run("edit", "tiny", PROMPT, "-o", "a")[0] == 0
    assert work.run("edit", "tiny", "--recipe", "a/recipe.yaml", "-o", "b")[0] == 0
    assert work.run("edit", "tiny", "--recipe", "a", "-o", "c")[0] == 0
    for name in ("model.onnx", "model.safetensors", "recipe.yaml"):
        assert (work.folder / "a" / name).read_bytes() == (work.folder / "b" / name).read_bytes()


def test_json_is_the_report_and_nothing_else(work: Workplace) -> None:
    code, out, _ = work.run("edit", "tiny", PROMPT, "-o", "edited", "--json")
    assert code == 0
    report = json.loads(out)
    written = json.loads((work.folder / "edited/report.json").read_text())
    assert (report["status"], report["delta"]) == ("ok", written["delta"])


def test_force_replaces_our_files_only(work: Workplace) -> None:
    (work.folder / "edited").mkdir()
    (work.folder / "edited/mine.txt").write_text("mine")
    assert work.run("edit", "tiny", PROMPT, "-o", "edited")[0] == 2
    assert work.run("edit", "tiny", PROMPT, "-o", "edited", "--force")[0] == 0
    assert {"edited/mine.txt", "edited/model.py"} <= work.entries


BAD: list[tuple[str, list[str], int, str]] = [
    ("unknown model", ["edit", "tinny", PROMPT, "-o", "out"], 3, "did you mean tiny?"),
    ("empty prompt", ["edit", "tiny", "", "-o", "out"], 2, "an empty text"),
    ("no prompt", ["edit", "tiny", "-o", "out"], 2, "an empty text"),
    ("long prompt", ["edit", "tiny", "x" * 10_000, "-o", "out"], 2, "10,000 characters"),
    ("no output", ["edit", "tiny", PROMPT], 2, "no output"),
    ("unknown place", ["edit", "tiny", PROMPT, "-o", "out", "--at", "h.9"], 4, "h.0 ... h.2"),
    ("unknown reading", ["edit", "tiny", PROMPT, "-o", "out", "--reading", "guess"], 2, "one of branch, convert"),
    ("unknown init", ["edit", "tiny", PROMPT, "-o", "out", "--init", "zero"], 2, "preserve or random"),
    ("missing recipe", ["edit", "tiny", "--recipe", "none.yaml", "-o", "out"], 2, "none.yaml"),
    ("recipe and prompt", ["edit", "tiny", PROMPT, "--recipe", "none.yaml", "-o", "out"], 2, "one of them"),
    ("no checkpoint", ["edit", "tiny", PROMPT, "-o", "out", "--model", "nowhere"], 2, "--model nowhere"),
    ("inputs of a known model", ["edit", "tiny", PROMPT, "-o", "out", "--input", "x=1x3"], 2, "leave --input out"),
    ("unknown option", ["edit", "tiny", PROMPT, "-o", "out", "--colour"], 2, "--colour"),
    ("unknown command", ["edti", "tiny"], 2, "edti"),
    ("unknown evaluation", ["eval", "no-such-evaluation"], 2, "no-such-evaluation"),
    ("unknown model to inspect", ["inspect", "tinny"], 3, "did you mean tiny?"),
]


@pytest.mark.parametrize(("words", "code", "text"), [item[1:] for item in BAD], ids=[item[0] for item in BAD])
def test_bad_input_is_a_message_and_a_code_and_leaves_nothing(
    work: Workplace, words: list[str], code: int, text: str
) -> None:
    found, out, err = work.run(*words)
    assert (found, out) == (code, ""), err
    assert text in err
    assert work.entries == set()


@pytest.mark.parametrize(("words", "code", "text"), [item[1:] for item in BAD], ids=[item[0] for item in BAD])
def test_bad_input_under_json_is_one_object(work: Workplace, words: list[str], code: int, text: str) -> None:
    found, out, _ = work.run(*words, "--json")
    data = json.loads(out)
    assert (found, data["status"] != "ok", data["error"]["exit_code"]) == (code, True, code)
    assert set(data["error"]) == {"where", "got", "expected", "fix", "exit_code"}
    assert text in json.dumps(data["error"], ensure_ascii=False)


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (FakeProposal(status="refused", reason="not_understood"), 4, "could not be read as a change"),
        (FakeProposal(status="refused", reason="no_such_target", blocked="layer 40"), 4, "h.0 ... h.2"),
        (FakeProposal(status="failed"), 5, "no valid change"),
        (FakeProposal(status="ambiguous"), 6, "--reading convert"),
    ],
)
def test_what_the_generator_declines_has_a_code_of_its_own(
    work: Workplace, answer: FakeProposal, code: int, text: str
) -> None:
    work.editor.answer = answer
    found, out, err = work.run("edit", "tiny", "colourless green ideas", "-o", "out")
    assert (found, out) == (code, ""), err
    assert text in err
    data = json.loads(work.run("edit", "tiny", "colourless green ideas", "-o", "out", "--json")[1])
    expected = {4: "refused", 5: "error", 6: "ambiguous"}[code]
    assert data["status"] == expected
    assert data["prompt"] == "colourless green ideas"
    assert ("readings" in data) == (code != 5)
    assert work.entries == set()


def test_an_output_below_a_file_is_refused_before_the_model_loads(work: Workplace) -> None:
    (work.folder / "file").write_text("x")
    code, _, err = work.run("edit", "nobody loads this", PROMPT, "-o", "file/out")
    assert code == 2
    assert "cannot be written to" in err


@pytest.mark.parametrize("target", ["out", "deep/out", "x.onnx"])
def test_a_full_disk_leaves_nothing(work: Workplace, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genmad.lowering.to_onnx.save_onnx", full)
    code, out, err = work.run("edit", "tiny", PROMPT, "-o", target)
    assert (code, out) == (2, "")
    assert "No space left on device" in err
    assert work.entries == set()


def test_a_failed_check_writes_nothing(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from genmad.validate import Level, ValidationReport
    from genmad.validate.levels import CheckResult

    problem = Diagnostic(where='Linear "h.2.attn.new_linear"', got="a wrong shape", expected="8")
    bad = CheckResult(name="types", level=Level(2), diagnostics=(problem,))
    report = ValidationReport(level=Level(1), asked=Level(5), checks=(bad,))
    monkeypatch.setattr(genmad.session.Architecture, "check", lambda *_: report)
    code, _, err = work.run("edit", "tiny", PROMPT, "-o", "out")
    assert code == 5
    assert 'Linear "h.2.attn.new_linear"' in err
    assert work.entries == set()


def test_inspect_shows_the_tree_and_its_size(work: Workplace) -> None:
    code, out, _ = work.run("inspect", "tiny", "--depth", "0")
    assert code == 0
    assert "h.0 ... h.2  3 calls of layer" in out
    assert "attn.q" not in out
    assert "stayed primitive: nothing" in out
    data = json.loads(work.run("inspect", "tiny", "--json")[1])
    assert [row["name"] for row in data["nodes"]] == ["wte", "h.0 ... h.2", "ln_f"]


def test_check_reports_the_level(work: Workplace) -> None:
    code, out, _ = work.run("check", "tiny", "--level", "4")
    assert code == 0
    assert "level 4 of 5 passed" in out
    assert json.loads(work.run("check", "tiny", "--level", "2", "--json")[1])["validity"]["level"] == 2


def test_diff_of_a_model_with_itself_is_empty(work: Workplace) -> None:
    assert "no difference" in work.run("diff", "tiny", "tiny")[1]
    assert json.loads(work.run("diff", "tiny", "tiny", "--json")[1])["same"] is True


def test_export_writes_a_folder_or_a_file(work: Workplace) -> None:
    assert work.run("export", "tiny", "-o", "folder")[0] == 0
    assert work.run("export", "tiny", "-o", "x.onnx")[0] == 0
    files = {"model.onnx", "model.py", "model.safetensors"}
    assert work.entries == {"folder", "x.onnx", *(f"folder/{name}" for name in files)}
    assert work.run("export", "tiny", "-o", "x.onnx")[0] == 2


OPTIONS = {
    "edit": {
        "--output", "--dry-run", "--at", "--reading", "--samples", "--seed", "--no-weights", "--init", "--recipe",
        "--model", "--input", "--force", "--json",
    },
    "inspect": {"--depth", "--input", "--json"},
    "check": {"--level", "--input", "--json"},
    "diff": {"--input", "--json"},
    "export": {"--output", "--no-weights", "--input", "--force", "--json"},
    "eval": {
        "--quick", "--seed", "--n", "--model", "--corpus", "--data", "--space", "--picture", "--protocol", "--json",
    },
    "generate": {
        "--data", "--export", "--force", "--invert", "--json", "--labels", "--list", "--max-depth", "--max-macs",
        "--max-params", "--model", "--n", "--novel", "--ops", "--output", "--save-graphs", "--seed", "--space",
        "--target", "--temperature", "--workers", "--from", "--holes", "--exclude",
        "--within",
    },
    "finetune": {
        "--output", "--time-limit", "--resume", "--rank", "--full", "--steps", "--base", "--manifest", "--run-code",
        "--replay", "--forbid-copies", "--max-tokens", "--license", "--workers", "--seed", "--json",
    },
    "score": {
        "--labels", "--output", "--space", "--target", "--seed", "--epochs", "--folds", "--shift", "--force", "--json",
    },
    "reduce": {"--output", "--top-k", "--constrained", "--force", "--json"},
    "build": {"--output", "--top-k", "--n", "--constrained", "--by", "--novel", "--force", "--json"},
    "mutate": {"--json", "--max-depth", "--max-macs", "--max-params", "--n", "--ops", "--seed", "--space"},
    "cross": {"--json", "--max-depth", "--max-macs", "--max-params", "--n", "--ops", "--seed", "--space"},
    "complete": {
        "--json", "--max-depth", "--max-macs", "--max-params", "--model", "--n", "--ops", "--seed", "--space",
        "--steps",
    },
    "search": {
        "--data", "--json", "--method", "--minimize", "--model", "--queries", "--reach", "--seed", "--space",
        "--target",
    },
}  # fmt: skip


def test_the_commands_and_their_options_are_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    """A renamed flag breaks scripts; change this table only with a line in the changelog."""
    from genmad.cli.app import COMMANDS

    assert set(COMMANDS) == set(OPTIONS)
    for name, expected in OPTIONS.items():
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        shown = {line.split()[0].rstrip(",") if line.split()[0][:2] == "--" else line.split()[1].rstrip(",")
                 for line in text.splitlines() if line.strip().startswith("-")}  # fmt: skip
        assert shown - {"--help"} == expected, name


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    """The best of three, because a loaded machine may be slow once; 0.4 s is promised, start-up included."""
    heavy = ("torch", "numpy", "onnx", "transformers", "rich")
    code = (
        "import sys; from genmad.cli import main; main(['--help']);"
        f" assert not {set(heavy)!r} & set(sys.modules), sorted(sys.modules)"
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.4, times


def test_an_evaluation_takes_a_checkpoint(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    import genmad.evals.timing

    asked: dict[str, Any] = {}

    def run(**options: Any) -> dict[str, Any]:
        asked.update(options)
        return {"name": "timing", "metrics": {}}

    monkeypatch.setattr(genmad.evals.timing, "run", run)
    (work.folder / "config.json").write_text("{}")
    assert work.run("eval", "timing", "--json", "--quick", "-n", "2", "--seed", "5", "--model", ".")[0] == 0
    assert asked == {"quick": True, "seed": 5, "n": 2, "checkpoint": "."}


def test_every_command_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for name in OPTIONS:
        assert main([name, "--help"]) == 0
        assert f"\n    genmad {name} " in capsys.readouterr().out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"genmad {genmad.__version__}\n"


def test_a_bug_under_json_is_one_object_and_still_raises(
    work: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        print("a library that prints")
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(work.editor, "edit", broken)
    with pytest.raises(ZeroDivisionError):
        main(["edit", "tiny", PROMPT, "--dry-run", "--json"])
    text = capsys.readouterr()
    assert json.loads(text.out)["error"]["got"] == "ZeroDivisionError: oops"
    assert "a library that prints" in text.err


def test_what_libraries_print_does_not_reach_the_json(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = genmad.importers.from_hf.load_source

    def chatty(*words: Any, **options: Any) -> Imported:
        print("loading shards: 100%")
        torch.manual_seed(0)
        return plain(*words, **options)

    monkeypatch.setattr(genmad.importers.from_hf, "load_source", chatty)
    assert json.loads(work.run("edit", "tiny", PROMPT, "--dry-run", "--json")[1])["status"] == "ok"
