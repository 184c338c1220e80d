"""The journal of a build: one line per finished job, so that a build that was ended goes on where it stood."""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genmad.zoo.jobs import Attempt, Job

NAME = "journal.jsonl"


class Journal:
    """Lines `{"id", "status", "reason", "seconds", "row"}` in a file; a row's graph is compressed.

    A line that was cut off, because the process was ended while it wrote, is ignored, and its job done again.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._where: dict[str, int] = {}
        self._heads: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._index()
        self._file = self.path.open("ab")

    def _index(self) -> None:
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                except ValueError:
                    break
                self._note(entry, end)
                end += len(line)
        if end < self.path.stat().st_size:
            with self.path.open("r+b") as file:
                file.truncate(end)

    def _note(self, entry: dict[str, Any], where: int) -> None:
        row = entry.pop("row")
        head = {"hash": row["hash"], "family": row["family"], "num_nodes": row["num_nodes"]} if row else {}
        self._heads[entry["id"]] = entry | {"row": head}
        self._where[entry["id"]] = where

    def __contains__(self, job: Job) -> bool:
        return job.ident in self._where

    def __len__(self) -> int:
        return len(self._where)

    def status(self, job: Job) -> str:
        """`ok` or `failed`. Raises `KeyError` for a job that is not done."""
        return str(self._heads[job.ident]["status"])

    def head(self, job: Job) -> Mapping[str, Any]:
        """What came of a job, of its row only hash, family and size. Raises `KeyError`."""
        return self._heads[job.ident]

    def add(self, done: Attempt) -> None:
        """Appends a line; it is on disk when this returns, as far as the system tells."""
        row = dict(done.row) if done.row is not None else None
        if row is not None:
            row["graph"] = base64.b85encode(zlib.compress(row["graph"].encode(), 6)).decode()
        entry = {
            "id": done.job.ident, "status": done.status, "reason": done.reason, "seconds": done.seconds, "row": row,
        }  # fmt: skip
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        where = self._file.seek(0, 2)
        self._file.write(line)
        self._file.flush()
        self._note(entry, where)

    def row(self, job: Job) -> dict[str, Any]:
        """The whole row of a job that went well. Raises `KeyError`."""
        with self.path.open("rb") as file:
            file.seek(self._where[job.ident])
            row: dict[str, Any] = json.loads(file.readline())["row"]
        row["graph"] = zlib.decompress(base64.b85decode(row["graph"])).decode()
        return row

    def rows(self, jobs: list[Job]) -> Iterator[dict[str, Any]]:
        """The rows of several jobs in the given order."""
        return (self.row(job) for job in jobs)

    def close(self) -> None:
        self._file.close()
