"""Reading back a folder that `genmad score` wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genmad.autobuild.architecture import Floats
from genmad.autobuild.encodings import Encoding, get_encoding
from genmad.autobuild.score_folder import PREDICTORS
from genmad.autobuild.scores import StageScores
from genmad.autobuild.scoring import Scorer, predict_with
from genmad.ir import Diagnostic, GenmadError
from genmad.spaces import SpaceError
from genmad.spaces.tables import csv_rows

MAX_BYTES = 1 << 30


class ScoreFolderError(GenmadError):
    """A folder of scores that cannot be read."""

    exit_code = 3

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


@dataclass(frozen=True, kw_only=True)
class ReadScores:
    """A folder of scores, read back.

    Attributes:
        encoding: of the space.
        target: what was to be high.
        best: the best label.
        stages: scores of modules; empty where the space has no stages.
        labelled: the architectures learned from.
        predictors: the ensemble.
    """

    encoding: Encoding
    target: str
    best: float
    stages: tuple[StageScores, ...]
    labelled: tuple[str, ...]
    predictors: tuple[Scorer, ...]

    def predict(self, texts: Sequence[str]) -> Floats:
        """The mean prediction."""
        return predict_with(self.predictors, [self.encoding.graph(text) for text in texts])


def read_scores(folder: Path, *, with_predictors: bool = True) -> ReadScores:
    """Raises `ScoreFolderError`: no such folder, a file missing or unreadable, predictors of another space."""
    summary = _read_summary(folder)
    try:
        encoding = get_encoding(str(summary["space"]))
    except SpaceError as error:
        raise ScoreFolderError(error.diagnostic) from error
    stages = _read_stages(folder, encoding)
    predictors: tuple[Scorer, ...] = ()
    if with_predictors:
        predictors = tuple(_read_predictor(folder / PREDICTORS / str(i), encoding) for i in range(summary["members"]))
    return ReadScores(
        encoding=encoding, target=str(summary["target"]), best=float(summary["best_label"]), stages=stages,
        labelled=_read_labelled(folder), predictors=predictors,
    )  # fmt: skip


def _read_summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    fix = "genmad score POOL --labels FILE -o scores/ writes one"
    if not path.is_file():
        got = f"{folder} without summary.json" if folder.is_dir() else f"{folder}, which is no folder"
        raise ScoreFolderError(Diagnostic(where="scores", got=got, expected="a folder of scores", fix=fix))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("beyond 1 GiB")
        summary = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"space": str, "target": str, "best_label": float | int, "members": int}
        wrong = [name for name, kind in kinds.items() if not isinstance(summary[name], kind)]
        if wrong or not 0 < summary["members"] <= 1000:
            raise ValueError(f"{', '.join(wrong) or 'members'} of another kind")
    except (OSError, ValueError, LookupError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ScoreFolderError(Diagnostic(where=str(path), got=got, expected="a summary of scores", fix=fix)) from error
    return dict(summary)


def _read_stages(folder: Path, encoding: Encoding) -> tuple[StageScores, ...]:
    """Modules stand in the order of enumeration, so that only their scores need to be read."""
    if encoding.modules is None:
        return ()
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, space = folder / "modules.parquet", encoding.modules
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("a file beyond 1 GiB")
        table = pq.read_table(path, columns=["module", "score"])
    except (OSError, ValueError, pa.ArrowException) as error:
        got = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        raise ScoreFolderError(Diagnostic(where=str(path), got=got, expected="the scores of modules")) from error
    score, texts = table["score"].to_numpy().astype(np.float64), table["module"]
    expected = [stage.text(codes[i].tolist()) for stage, codes in zip(space.stages, space.codes, strict=True) for i in
                (0, -1)]  # fmt: skip
    ends = np.cumsum([len(codes) for codes in space.codes])
    places = [i for start, end in zip([0, *ends[:-1]], ends, strict=True) for i in (int(start), int(end) - 1)]
    if len(score) != space.num_modules or [texts[i].as_py() for i in places] != expected:
        got = f"{len(score):,} rows that are not the modules of {encoding.name}"
        expected_text = f"its {space.num_modules:,} modules in order"
        raise ScoreFolderError(
            Diagnostic(where=str(path), got=got, expected=expected_text, fix="run genmad score again")
        )
    if not np.isfinite(score).all():
        line = int(np.flatnonzero(~np.isfinite(score))[0])
        raise ScoreFolderError(Diagnostic(where=f"{path} row {line}", got="no finite score", expected="a number"))
    parts = np.split(score, ends[:-1])
    return tuple(
        StageScores(stage=stage, codes=codes, sizes=(codes >= 0).sum(1).astype(np.int64), members=part[None])
        for stage, codes, part in zip(space.stages, space.codes, parts, strict=True)
    )


def _read_labelled(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(row["encoding"] for row in csv_rows(folder / "labels.csv", ["encoding"]))
    except SpaceError as error:
        raise ScoreFolderError(error.diagnostic) from error


def _read_predictor(folder: Path, encoding: Encoding) -> Scorer:
    """Raises `PredictorError` where the files are damaged or were trained on another space."""
    from genmad.autobuild.autobuild_predictor import AutoBuildPredictor

    return AutoBuildPredictor.from_pretrained(folder, encoding.schema)
