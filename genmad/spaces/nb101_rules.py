"""The rules of NAS-Bench-101, read from a matrix and a list of operations; nothing here is used to make cells.

Ying et al., ICML 2019, arXiv 1902.09635, section 2: at most 7 vertices and 9 edges, three operations, and
whatever is on no path from input to output is removed before anything is counted. Two cells are one when their iterated
hashes agree.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
MAX_VERTICES = 7
MAX_EDGES = 9
Rows = list[list[int]]


def parse(text: str) -> tuple[Rows, list[str], list[str]]:
    """Matrix, operations of the inner vertices, and what is wrong with the form.

    The text is the upper triangle row by row, a space, then the operations with a space between.
    """
    bits, *ops = text.split() if text.strip() else [""]
    size = len(ops) + 2
    if set(bits) - {"0", "1"} or len(bits) != size * (size - 1) // 2:
        got = f"{bits[:40]!r} and {len(ops)} operations"
        return [], [], [f"{got}: expected {size * (size - 1) // 2} digits 0 or 1"]
    rows, at = [], 0
    for v in range(size):
        width = size - 1 - v
        rows.append([0] * (v + 1) + [int(b) for b in bits[at : at + width]])
        at += width
    return rows, ops, []


def prune(rows: Rows) -> list[int]:
    """The vertices on some path from the first to the last."""
    size = len(rows)
    ahead, back = {0}, {size - 1}
    for v in range(size):
        if any(rows[u][v] for u in ahead if u < v):
            ahead.add(v)
    for v in range(size - 1, -1, -1):
        if any(rows[v][w] for w in back if w > v):
            back.add(v)
    return sorted(ahead & back) if size - 1 in ahead else []


def problems(text: str) -> list[str]:
    """Why a text is no cell of the benchmark; empty when it is one."""
    rows, ops, found = parse(text)
    if found:
        return found
    if len(rows) > MAX_VERTICES:
        found.append(f"{len(rows)} vertices, more than {MAX_VERTICES}")
    found += [f"unknown operation {op!r}" for op in dict.fromkeys(ops) if op not in OPERATIONS]
    kept = prune(rows)
    if not kept:
        return [*found, "no path from input to output"]
    edges = sum(rows[a][b] for a in kept for b in kept)
    return found + ([f"{edges} edges, more than {MAX_EDGES}"] if edges > MAX_EDGES else [])


def cell_hash(text: str) -> str:
    """The benchmark's key of a cell: neighbours' MD5 hashes joined and hashed again, once per vertex, after pruning."""
    rows, ops, _ = parse(text)
    kept = prune(rows)
    labels = [-1, *(OPERATIONS.index(op) for op in ops), -2]
    return fingerprint([[rows[a][b] for b in kept] for a in kept], [labels[v] for v in kept])


def fingerprint(rows: Rows, labels: Sequence[int]) -> str:
    """32 hexadecimal digits that do not depend on the order of vertices."""
    size = range(len(rows))
    before = [[u for u in size if rows[u][v]] for v in size]
    after = [[w for w in size if rows[v][w]] for v in size]
    hashes = [_md5(str((len(after[v]), len(before[v]), labels[v]))) for v in size]
    for _ in size:
        hashes = [
            _joined(tuple(sorted(hashes[u] for u in before[v])), tuple(sorted(hashes[w] for w in after[v])), hashes[v])
            for v in size
        ]
    return _md5(str(sorted(hashes)))


@lru_cache(maxsize=500_000)
def _joined(before: tuple[str, ...], after: tuple[str, ...], own: str) -> str:
    return _md5(f"{''.join(before)}|{''.join(after)}|{own}")


@lru_cache(maxsize=10_000)
def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
