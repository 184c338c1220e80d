"""What evaluations are made on: the families that training never sees, and settings read from `configs/`."""

import difflib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from importlib.resources import files
from itertools import islice
from typing import Any, TypeVar

from genmad.ir.diagnostics import Diagnostic, GenmadError
from genmad.ir.graph import Graph

T = TypeVar("T")
CORPUS = "corpus.yaml"


class EvalConfigError(GenmadError):
    """A config of an evaluation that cannot be used."""

    exit_code = 2


def _read(name: str) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(files("genmad.configs").joinpath(name).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise EvalConfigError(
            str(Diagnostic(where=f"configs/{name}", got=str(error), expected="a YAML file"))
        ) from error
    if not isinstance(data, dict):
        got = type(data).__name__
        raise EvalConfigError(str(Diagnostic(where=f"configs/{name}", got=got, expected="names and values")))
    return data


def read_config(name: str, kind: type[T]) -> T:
    """A config as a value of the dataclass `kind`. Raises `EvalConfigError` naming every unknown or missing key."""
    data = _read(name)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    problems = []
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            fix = f"did you mean {near[0]}?" if near else ""
            problems.append(Diagnostic(where=f"configs/{name}", got=f"key {key!r}", expected=", ".join(known), fix=fix))
    for key in known:
        if key not in data:
            problems.append(Diagnostic(where=f"configs/{name}", got=f"no {key}", expected=f"a value for {key}"))
    if problems:
        raise EvalConfigError("\n".join(str(problem) for problem in problems))
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def held_out_families() -> tuple[str, ...]:
    """The families that training never sees, as `configs/corpus.yaml` names them. Raises `EvalConfigError`."""
    data = _read(CORPUS)
    names = data.get("held_out", data.get("heldout"))
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        where, expected = f"configs/{CORPUS}", "held_out: a list of families"
        raise EvalConfigError(str(Diagnostic(where=where, got=f"held_out: {names!r}", expected=expected)))
    return tuple(names)


def small_graphs(
    families: Iterable[str], per_family: int, seed: int, *, say: Callable[[str], None], skip_missing: bool = False
) -> Mapping[str, tuple[Graph, ...]]:
    """Small graphs of each family. A variant that cannot be imported is said and left out, as are the families of a
    library that is not installed.

    Raises `EvalConfigError` for a family of which there is no graph at all, unless `skip_missing`.
    """
    from importlib.util import find_spec

    wanted = [name for name in families if not name.startswith("timm.") or find_spec("timm") is not None]
    found: dict[str, list[Graph]] = {name: [] for name in wanted}
    why: dict[str, str] = {}
    for name in wanted:
        for variant, make in islice(_variants(name, seed), per_family):
            try:
                found[name].append(make())
            except Exception as error:  # one model that does something odd must not end an evaluation
                why[name] = f"{type(error).__name__}: {error}"[:300]
                say(f"{name} {variant} is left out: {why[name]}")
    empty = [name for name, graphs in found.items() if not graphs]
    if empty and not skip_missing:
        got = "; ".join(f"{name} ({why.get(name, 'unknown family')})" for name in empty)
        raise EvalConfigError(
            str(Diagnostic(where="held-out families", got=f"no graph of {got}", expected="one or more"))
        )
    say(f"{sum(map(len, found.values()))} graphs of {len(found)} held-out families")
    return {name: tuple(graphs) for name, graphs in found.items() if graphs}


def _variants(name: str, seed: int) -> Iterator[tuple[str, Callable[[], Graph]]]:
    """Small models of a family, of varied depth and width: of a table where it is known in detail, else by rule."""
    from genmad.data.families import FAMILIES, narrow_size
    from genmad.importers.from_hf import import_config

    rng = random.Random(f"{name} {seed}")
    known = {family.model_type: family for family in FAMILIES}
    if name in known:
        while True:
            overrides = dict(known[name].config(narrow_size(rng)))
            config = known[name].make_config(overrides)
            yield str(overrides), lambda config=config: import_config(config).graph  # type: ignore[misc]
    elif name.startswith("timm."):
        from genmad.importers import from_timm

        models = [m for m in from_timm.model_names() if from_timm.model_family(m).removeprefix("timm.") == name[5:]]
        for model in rng.sample(models, len(models)):
            yield model, lambda model=model: from_timm.import_name(model).graph  # type: ignore[misc]
    else:
        from genmad.importers.hf_catalog import import_type, model_types

        for depth, width in ((3, 8), (4, 4), (6, 8), (2, 4)) if name in model_types() else ():
            make = partial(import_type, name, size="small", depth=depth, width=width)
            yield f"{depth} layers, width/{width}", lambda make=make: make().graph  # type: ignore[misc]
