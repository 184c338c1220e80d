"""The commands joined, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from genmad.cli.check import check
from genmad.cli.diff import diff
from genmad.cli.edit import edit
from genmad.cli.eval import evaluate
from genmad.cli.export import export
from genmad.cli.finetune import finetune
from genmad.cli.generate import generate
from genmad.cli.inspect import inspect
from genmad.cli.output import emit_json, show_error
from genmad.cli.score import build, reduce, score
from genmad.cli.search import search
from genmad.cli.variants import complete, cross, mutate
from genmad.cli.zoo import zoo
from genmad.ir.diagnostics import GenmadError

app = typer.Typer(
    name="genmad", add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    help="Edit neural network architectures by a sentence, or generate pools of them.",
    epilog='Start with: genmad edit gpt2 "add local attention to the last layer" -o edited/\n\n'
    "Exit codes: 0 ok, 2 usage, 3 source unreadable, 4 request refused, 5 no valid result, 6 ambiguous.",
)  # fmt: skip
COMMANDS: dict[str, Callable[..., int]] = {
    "edit": edit, "inspect": inspect, "check": check, "diff": diff, "export": export, "eval": evaluate,
    "generate": generate, "mutate": mutate, "cross": cross, "complete": complete, "search": search,
    "finetune": finetune, "score": score, "reduce": reduce, "build": build,
}  # fmt: skip
# Command -> its line in `genmad --help`, and what its own help shows as examples.
_HELP: dict[str, tuple[str, tuple[str, ...]]] = {
    "edit": (
        "Change a model by a sentence and hand over the result.",
        (
            'genmad edit gpt2 "add local attention to the last layer" -o edited/',
            'genmad edit bert "add lora of rank 8 to the query projections" --dry-run',
            'genmad edit my.pkg:make "make layer 2 wider" --input x=1x3x64x64 -o new.onnx',
            "genmad edit gpt2 --recipe edited/recipe.yaml -o again/",
        ),
    ),
    "inspect": (
        "Show a model's graph with shapes and costs.",
        ("genmad inspect gpt2", "genmad inspect timm:resnet18 --depth 0", "genmad inspect model.onnx --json"),
    ),
    "check": (
        "Check that a model is valid, up to running it.",
        ("genmad check gpt2", "genmad check model.onnx --level 4", "genmad check pool.parquet"),
    ),
    "diff": (
        "Compare two models node by node.",
        ("genmad diff gpt2 edited/", "genmad diff before.onnx after.onnx --json"),
    ),
    "export": (
        "Write a model as ONNX or PyTorch code.",
        ("genmad export gpt2 -o gpt2/", "genmad export llama -o llama.onnx --no-weights"),
    ),
    "generate": (
        "Write a pool of candidate architectures from a search space.",
        (
            "genmad generate -n 1000 --space nb201 --max-params 1M --seed 0 -o pool.parquet",
            "genmad generate -n 500 --space nb101 --ops conv3x3-bn-relu,maxpool3x3 -o pool.parquet --json",
            "genmad generate --space nb201 --target c10_test --data tables/ -o good.parquet",
            "genmad check pool.parquet",
        ),
    ),
    "mutate": (
        "Change one choice of a member of a search space.",
        ("genmad mutate '|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|' --space nb201 -n 5",),
    ),
    "cross": (
        "Mix two members of a search space.",
        ("genmad cross 'conv3x3-bn-relu ...' '...' --space nb101 -n 5 --json",),
    ),
    "complete": (
        "Fill in what a partial member leaves open.",
        ("genmad complete --steps --space nb201", "genmad complete partial.json --space nb201 -n 10"),
    ),
    "search": (
        "Look for a good member of a space with few labels.",
        ("genmad search --space nb201 --data tables/ --target c10_test --queries 100",),
    ),
    "finetune": (
        "Tune the generator to a folder of your own models.",
        (
            "genmad finetune ./my_zoo -o my-generator/ --time-limit 30m",
            "genmad finetune ./my_zoo -o my-generator/ --time-limit 30m --resume",
            'genmad edit my_zoo/a.onnx "add a layer" --model my-generator/ -o edited/',
            "genmad generate --model my-generator/ --from my_zoo/a.onnx -n 20 -o pool.parquet",
        ),
    ),
    "score": (
        "Say which modules matter, from measured architectures.",
        (
            "genmad score pool.parquet --labels acc.csv -o scores/",
            "genmad score pool.parquet --labels acc.csv --target 'acc - 0.25*sqrt(lat_ms)' -o scores/",
            "genmad score measured.csv --space nb_macro --seed 1 -o scores/ --json",
        ),
    ),
    "reduce": (
        "Keep the best modules: a smaller search space.",
        ("genmad reduce scores/ --top-k 3 -o space.yaml", "genmad generate --space nb201 --within space.yaml -n 50"),
    ),
    "build": (
        "Put the best modules together, without a search.",
        ("genmad build scores/ -o built.parquet", "genmad build scores/ --top-k 3 -n 20 --constrained --novel --json"),
    ),
    "eval": (
        "Measure the generator.",
        ("genmad eval list", "genmad eval edits --quick --json", "genmad eval timing -n 3"),
    ),
}
for _name, _function in COMMANDS.items():
    _line, _examples = _HELP[_name]
    # \b keeps the lines as they are.
    app.command(_name, short_help=_line, epilog="\b\nExamples:\n" + "\n".join(f"  {e}" for e in _examples))(_function)
app.add_typer(zoo, name="zoo")


@app.callback(invoke_without_command=True)
def _top(version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True)) -> None:
    if version:
        from genmad import __version__

        typer.echo(f"genmad {__version__}")
        raise typer.Exit


def run(argv: list[str] | None = None) -> int:
    """Runs one command; the exit code. Every `GenmadError` is a message and its own code."""
    words = sys.argv[1:] if argv is None else argv
    as_json = "--json" in words
    try:
        code = app(args=words, prog_name="genmad", standalone_mode=False)
    except typer.TyperException as error:
        return _usage(error, as_json)
    except GenmadError as error:
        return _report(error, as_json)
    except typer.Abort:
        return 130
    except Exception as error:
        if as_json:
            _emit_unexpected(error)
        raise
    return code if isinstance(code, int) else 0


def _report(error: GenmadError, as_json: bool) -> int:
    if as_json:
        from genmad.report import error_json

        emit_json(error_json(error))
    else:
        show_error(error)
    return error.exit_code


def _usage(error: Any, as_json: bool) -> int:
    code = int(getattr(error, "exit_code", 2))
    if not as_json:
        error.show(file=sys.stderr)
        return code
    fix = "genmad --help lists the commands and their options"
    detail = {"where": "command line", "got": error.format_message(), "expected": "", "fix": fix, "exit_code": code}
    emit_json({"status": "error", "error": detail})
    return code


def _emit_unexpected(error: Exception) -> None:
    got = f"{type(error).__name__}: {error}"
    fix = "this is a bug in genmad; the traceback is on stderr"
    emit_json({"status": "error", "error": {"where": "genmad", "got": got, "expected": "", "fix": fix, "exit_code": 1}})
