"""Reduced search spaces: the best modules of every stage, with exact sizes, as YAML that other commands read.

Two spaces stand in the file. `stages` lists modules: their product is the reduced space. `steps` lists, for each step
of the space's grammar, the choices that these modules make: the smallest box around it, larger than the product, which
anything that samples word by word can keep to (`genmad generate --within space.yaml`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml

from genmad.autobuild.construction import no_stages, top_modules
from genmad.autobuild.encodings import Encoding
from genmad.autobuild.scores import StageScores
from genmad.ir import Diagnostic, GenmadError
from genmad.spaces import Space

MAX_BYTES = 64 << 20


class ReducedError(GenmadError):
    """A reduced space that cannot be read."""

    exit_code = 3

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedSpace:
    """The modules that are kept.

    Attributes:
        space: name of the space.
        size_of_space: exact number of its members.
        target: what the modules were scored for.
        top_k: modules asked for per stage.
        constrained: whether every number of layers has its share.
        stages: per stage its name and the modules kept, best first, each with its score.
        steps: step of the grammar -> the choices that the modules make; empty where the space has no grammar.
        size_of_box: exact number of members that `steps` allows; None where the space has no grammar.
    """

    space: str
    size_of_space: int
    target: str
    top_k: int
    constrained: bool
    stages: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    steps: Mapping[str, tuple[str, ...]]
    size_of_box: int | None

    @property
    def size(self) -> int:
        """Exact number of architectures: the product of the numbers of modules."""
        return prod(len(modules) for _, modules in self.stages)

    def to_yaml(self) -> str:
        """The file."""
        data: dict[str, Any] = {
            "space": self.space, "target": self.target, "top_k": self.top_k, "constrained": self.constrained,
            "size": self.size, "size_of_space": self.size_of_space, "size_of_box": self.size_of_box,
            "stages": [
                {"name": name, "modules": [{"module": text, "score": round(score, 6)} for text, score in modules]}
                for name, modules in self.stages
            ],
            "steps": {step: list(choices) for step, choices in self.steps.items()},
        }  # fmt: skip
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def reduce_space(
    encoding: Encoding, scores: Sequence[StageScores], *, top_k: int, constrained: bool = False, target: str = ""
) -> ReducedSpace:
    """The K best modules of every stage. Raises `BuildError` where the space has no stages."""
    if encoding.modules is None:
        raise no_stages(encoding)
    kept = [top_modules(stage, top_k, constrained=constrained) for stage in scores]
    stages = tuple(
        (stage.stage.name, tuple((stage.stage.text(stage.codes[i].tolist()), float(stage.score[i])) for i in rows))
        for stage, rows in zip(scores, kept, strict=True)
    )
    steps: Mapping[str, tuple[str, ...]] = {}
    box = None
    if encoding.space is not None:
        texts = _one_at_a_time(encoding, scores, [rows.tolist() for rows in kept])
        steps, box = _box(encoding.space, texts)
    return ReducedSpace(
        space=encoding.name, size_of_space=encoding.modules.size, target=target, top_k=top_k, constrained=constrained,
        stages=stages, steps=steps, size_of_box=box,
    )  # fmt: skip


def _one_at_a_time(encoding: Encoding, scores: Sequence[StageScores], kept: Sequence[Sequence[int]]) -> list[str]:
    """Architectures in which every kept module occurs, the best modules elsewhere."""
    assert encoding.modules is not None
    best = [rows[0] for rows in kept]
    picks = [best] + [
        [*best[:s], row, *best[s + 1 :]] for s, rows in enumerate(kept) for row in rows[1:]
    ]  # fmt: skip
    return [
        encoding.modules.text([stage.codes[i].tolist() for stage, i in zip(scores, pick, strict=True)])
        for pick in picks
    ]


def _box(space: Space, texts: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], int]:
    """The choices of each step that occur, in the grammar's order, and how many words keep to them."""
    words = [space.from_text(text) for text in texts]
    grammar = space.grammar()
    allowed = {t: frozenset(word[t] for word in words) for t in range(grammar.length)}
    names = {step.name: tuple(step.choices[c] for c in sorted(allowed[t])) for t, step in enumerate(grammar.steps)}
    return names, grammar.restrict(allowed).num_words


def write_reduced(reduced: ReducedSpace, path: Path) -> None:
    """Writes beside the target and renames, so that a file that exists is whole. Raises `ReducedError`."""
    aside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(reduced.to_yaml(), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        got, fix = error.strerror or str(error), "nothing was written; choose another place"
        raise ReducedError(Diagnostic(where=str(path), got=got, expected="a place to write to", fix=fix)) from error


def read_steps(path: Path, space: Space) -> dict[int, frozenset[int]]:
    """Step number -> allowed choices, of a file written by `genmad reduce` or by hand.

    Raises `ReducedError`: unreadable, another space, an unknown step or choice.
    """
    data = _read(path)
    if data.get("space") != space.name:
        got, fix = f"space {data.get('space')!r}", f"--space {data.get('space')}"
        raise ReducedError(Diagnostic(where=str(path), got=got, expected=space.name, fix=fix))
    steps = {step.name: (t, step.choices) for t, step in enumerate(space.steps)}
    found: dict[int, frozenset[int]] = {}
    for name, choices in (data.get("steps") or {}).items():
        if name not in steps:
            raise ReducedError(Diagnostic(where=str(path), got=f"step {name!r}", expected=f"one of {', '.join(steps)}"))
        number, known = steps[name]
        strays = [str(choice) for choice in choices or () if str(choice) not in known]
        if strays or not choices:
            got = f"{name}: {', '.join(strays) or 'no choice'}"
            raise ReducedError(Diagnostic(where=str(path), got=got, expected=f"some of {', '.join(known)}"))
        found[number] = frozenset(known.index(str(choice)) for choice in choices)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ReducedError(Diagnostic(where=str(path), got="a file beyond 64 MiB", expected="a reduced space"))
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        got = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        raise ReducedError(Diagnostic(where=str(path), got=got, expected="YAML that genmad reduce wrote")) from error
    if not isinstance(data, dict) or not isinstance(data.get("steps"), dict | None):
        got, expected = type(data).__name__, "a mapping with `space` and `steps`"
        raise ReducedError(Diagnostic(where=str(path), got=got, expected=expected))
    return data
