"""`my-generator/`: what a tuning run hands over. A checkpoint like any other, with a card; nothing of the zoo is in it
but counts, figures, the names of opaque operators in the vocabulary, and hashes where copies are to be forbidden."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from genmad import __version__
from genmad.ir import Diagnostic, GenmadError
from genmad.model import GraphTransformer
from genmad.tokenizer import GraphReader

ABOUT, CARD, HASHES = "finetune.json", "README.md", "forbidden.json"


class TunedFolderError(GenmadError):
    """A tuned generator that cannot be written."""

    exit_code = 2

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


@dataclass(frozen=True, kw_only=True)
class About:
    """What is told of a tuned generator.

    Attributes:
        license: as its owner states it.
        base: what it was tuned from.
        zoo: counts, no names.
        tuning: settings as they came out, steps, seconds, why it stopped.
        before, after: figures on the zoo's held-out part and on public graphs.
        measures: further figures, such as copies among generated graphs.
        notes: sentences that a reader must know.
    """

    license: str
    base: str
    zoo: Mapping[str, Any]
    tuning: Mapping[str, Any]
    before: Mapping[str, Mapping[str, float]]
    after: Mapping[str, Mapping[str, float]]
    measures: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        return {"genmad": __version__, **{name: getattr(self, name) for name in self.__dataclass_fields__}}


def save_tuned(
    out: Path, model: GraphTransformer, reader: GraphReader, about: About, *, forbidden: Iterable[str] = ()
) -> None:
    """Writes the folder beside `out` and renames it; what stood there is there until the last moment.

    Args:
        forbidden: canonical hashes of graphs that the generator must not give back.

    Raises `TunedFolderError` where the disk is full or the place cannot be written to; `out` is then as it was.
    """
    fresh = out.with_name(f"{out.name}.new-{os.getpid()}")
    try:
        fresh.mkdir(parents=True)
        model.config.save_pretrained(fresh)
        tensors = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()}
        save_file(tensors, fresh / "model.safetensors", metadata={"format": "pt"})
        reader.vocab.save(fresh / "vocab.json")
        reader.text.save(fresh / "prompt.model")
        (fresh / ABOUT).write_text(json.dumps(about.to_json(), indent=1), encoding="utf-8")
        (fresh / CARD).write_text(card(about), encoding="utf-8")
        hashes = sorted(forbidden)
        if hashes:
            (fresh / HASHES).write_text(json.dumps(hashes), encoding="utf-8")
        _replace(fresh, out)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise write_error(out, error) from error


def write_error(out: Path, error: Exception) -> TunedFolderError:
    """The message for a disk that is full or a place that cannot be written to."""
    got = getattr(error, "strerror", None) or str(error).splitlines()[0]
    fix = "make room, or name another place with -o, then run the same command with --resume"
    return TunedFolderError(Diagnostic(where=f"-o {out}", got=got, expected="a place with room to write to", fix=fix))


def _replace(fresh: Path, out: Path) -> None:
    old = out.with_name(f"{out.name}.old-{os.getpid()}")
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


_TITLES = {
    "node_nll": "a node's op and inputs, nats", "op_nll": "a node's op, nats", "link_nll": "a link, nats",
    "completion_nll": "a removed node put back, nats", "edit_nll": "a token of an edit, nats",
    "op_top1": "masked ops restored", "link_hits1": "hidden links restored",
}  # fmt: skip


def card(about: About) -> str:
    """README.md."""
    zoo, tuning = about.zoo, about.tuning
    lines = [
        "---", f"license: {about.license}", "library_name: genmad", "tags: [graph-transformer, architecture-editing]",
        "---", "", "# A generator of neural network architectures, tuned to a private zoo", "",
        f"Tuned by GenMAD {__version__} from {about.base}. The zoo itself is not in this folder.", "",
        "```bash", 'genmad edit MODEL "what to change" --model THIS_FOLDER -o edited/',
        "genmad generate --model THIS_FOLDER --from MODEL -n 20 -o pool.parquet", "```", "", "## Data", "",
    ]  # fmt: skip
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in zoo.items()]
    lines += ["", "## Tuning", "", *(f"- {name.replace('_', ' ')}: {value}" for name, value in tuning.items())]
    lines += ["", "## Figures", ""]
    for part, title in (("zoo", "held-out part of the zoo"), ("public", "public graphs")):
        before, after = about.before.get(part, {}), about.after.get(part, {})
        rows = [f"| {_TITLES[k]} | {before[k]:.4g} | {after[k]:.4g} |" for k in _TITLES if k in before and k in after]
        if rows:
            lines += [f"| {title} | before | after |", "|---|---|---|", *rows, ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in about.measures.items()]
    lines += ["", "## To know", "", *(f"- {note}" for note in about.notes)]
    return "\n".join(lines) + "\n"
