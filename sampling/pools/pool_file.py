"""`pool.parquet`: one row per member, written whole or not at all; an interrupted run is taken up from its parts."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genmad.ir import Diagnostic, GenmadError
from genmad.sampling.pools.drawing import Drawn
from genmad.spaces import SPACES, Space, Words, get_space
from genmad.spaces.split import in_training

if TYPE_CHECKING:
    import pyarrow

COLUMNS = (
    "canonical_hash", "space", "encoding", "params", "macs", "depth", "log_likelihood", "score", "uncertainty", "novel",
    "provenance",
)  # fmt: skip
NEEDED = ("space", "encoding")
MAX_BYTES = 2 << 30
_CHUNK = 20_000


class PoolError(GenmadError):
    """A pool that cannot be read or written."""

    exit_code = 3

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a row says beyond the member itself.

    Attributes:
        score, uncertainty: float64 per member, None without a predictor.
        train_share: of the split that the generator was trained on; None where nothing is known of it.
        provenance: model, seed, conditions and version, the same for every row.
    """

    score: NDArray[np.float64] | None = None
    uncertainty: NDArray[np.float64] | None = None
    train_share: float | None = None
    provenance: Mapping[str, Any]


def table_of(space: Space, drawn: Drawn, extras: Extras) -> "pyarrow.Table":
    """The rows."""
    import pyarrow as pa

    words = drawn.words
    chunks = [words[i : i + _CHUNK] for i in range(0, len(words), _CHUNK)] or [words]
    costs = np.concatenate([space.costs(chunk) for chunk in chunks])
    novel = None if extras.train_share is None else ~in_training(space, words, extras.train_share)
    provenance = json.dumps(extras.provenance, sort_keys=True)
    columns = {
        "canonical_hash": pa.array([h for chunk in chunks for h in space.hashes(chunk)], pa.string()),
        "space": pa.array([space.name] * len(words), pa.string()).dictionary_encode(),
        "encoding": pa.array([space.to_text(tuple(word)) for word in words.tolist()], pa.string()),
        "params": pa.array(costs[:, 0]),
        "macs": pa.array(costs[:, 1]),
        "depth": pa.array(costs[:, 2]),
        "log_likelihood": pa.array(np.round(drawn.log_likelihood, 4)),
        "score": _floats(extras.score, len(words)),
        "uncertainty": _floats(extras.uncertainty, len(words)),
        "novel": pa.nulls(len(words), pa.bool_()) if novel is None else pa.array(novel),
        "provenance": pa.array([provenance] * len(words), pa.string()).dictionary_encode(),
    }
    return pa.table({name: columns[name] for name in COLUMNS})


def _floats(values: NDArray[np.float64] | None, n: int) -> "pyarrow.Array":
    import pyarrow as pa

    return pa.nulls(n, pa.float64()) if values is None else pa.array(np.asarray(values, np.float64))


def write_pool(table: "pyarrow.Table", path: Path) -> None:
    """Writes beside the target and renames, so that a file that exists is whole. Raises `PoolError`."""
    import pyarrow.parquet as pq

    aside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, aside, compression="zstd")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        got = error.strerror or str(error)
        raise PoolError(
            Diagnostic(where=str(path), got=got, expected="a place to write to", fix="nothing was written")
        ) from error


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Rounds of a run that is not done, in a folder beside the pool.

    Attributes:
        folder: `pool.parquet.parts`.
        request: what was asked for; parts of another request are not taken up.
    """

    folder: Path
    request: Mapping[str, Any]

    def load(self) -> list[Drawn]:
        """The rounds written so far; none when the folder is of another request, which is then emptied."""
        try:
            same = json.loads((self.folder / "request.json").read_text(encoding="utf-8")) == dict(self.request)
        except (OSError, ValueError):
            same = False
        if not same:
            if (self.folder / "request.json").exists():
                shutil.rmtree(self.folder)
            return []
        found: list[Drawn] = []
        while (path := self.folder / f"round-{len(found):06d}.npz").exists():
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    found.append(
                        Drawn(
                            words=arrays["words"], log_likelihood=arrays["log_likelihood"],
                            fingerprints=arrays["fingerprints"], num_draws=int(arrays["num_draws"]),
                            heat=int(arrays["heat"]), exhausted=bool(arrays["exhausted"]),
                        )
                    )  # fmt: skip
            except (OSError, ValueError, KeyError):
                break
        return found

    def save(self, number: int, drawn: Drawn) -> None:
        """One more round."""
        self.folder.mkdir(parents=True, exist_ok=True)
        request = self.folder / "request.json"
        if not request.exists():
            request.write_text(json.dumps(dict(self.request)), encoding="utf-8")
        aside = self.folder / "next.npz"
        np.savez(
            aside, words=drawn.words, log_likelihood=drawn.log_likelihood, fingerprints=drawn.fingerprints,
            num_draws=drawn.num_draws, heat=drawn.heat, exhausted=drawn.exhausted,
        )  # fmt: skip
        os.replace(aside, self.folder / f"round-{number:06d}.npz")

    def drop(self) -> None:
        """The pool is written; the parts go."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read_pool(path: Path, *, graphs: bool = False) -> list[dict[str, Any]]:
    """The rows of a pool, as dicts; with `graphs` also of a pool of graphs that are members of no space.

    Raises `PoolError` on what is none: unreadable, too large, columns missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.stat().st_size > MAX_BYTES:
            raise PoolError(Diagnostic(where=str(path), got="a file beyond 2 GiB", expected="a smaller pool"))
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        got = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        raise PoolError(Diagnostic(where=str(path), got=got, expected="a pool that genmad generate wrote")) from error
    needed = ("graph",) if graphs and "graph" in table.column_names else NEEDED
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        got = f"columns {', '.join(table.column_names[:20]) or 'none'}"
        raise PoolError(Diagnostic(where=str(path), got=got, expected=f"also {', '.join(missing)}"))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def pool_problems(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with a pool's rows: foreign members, repeats, and hashes or costs that are not the member's own."""
    seen: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows):
        name, text = row["space"], row["encoding"]
        if not isinstance(name, str) or name not in SPACES:
            yield f"row {number}: space {name!r}, not one of {', '.join(SPACES)}"
            continue
        space = get_space(name)
        found = space.problems(text) if isinstance(text, str) else ["the encoding is empty"]
        if found:
            yield f"row {number}: no member of {name}: {'; '.join(found)}"
            continue
        word = np.array([space.from_text(str(text))], np.int16)
        (key,) = space.hashes(word)
        if (name, key) in seen:
            yield f"row {number}: the same member as row {seen[name, key]}"
        seen.setdefault((name, key), number)
        yield from _disagreements(number, row, space, word, key)


def _disagreements(number: int, row: Mapping[str, Any], space: Space, word: Words, key: str) -> Iterator[str]:
    if row.get("canonical_hash") not in (None, key):
        yield f"row {number}: canonical_hash {row['canonical_hash']!r}, but the encoding's is {key}"
    for metric, value in zip(("params", "macs", "depth"), space.costs(word)[0].tolist(), strict=True):
        if row.get(metric) not in (None, value):
            yield f"row {number}: {metric} {row[metric]}, but the member's are {value}"
