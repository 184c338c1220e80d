"""`genmad mutate`, `genmad cross`, `genmad complete`: members from members, under the same grammar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genmad.cli.generate import Depth, Generator, Macs, Ops, Params, Seed, SpaceName, limits_of, usage_error
from genmad.cli.options import Json
from genmad.cli.output import emit_json, quiet_stdout, show, warn

if TYPE_CHECKING:
    from genmad.spaces import Space, Words

Count = Annotated[int, typer.Option("-n", "--n", help="How many.", metavar="N", min=1, max=100_000)]
Partial = Annotated[Path | None, typer.Argument(help="JSON: step -> choice; --steps names them.", metavar="FILE")]
Member = Annotated[str, typer.Argument(help="A member in the space's own encoding.", metavar="MEMBER")]


def mutate(
    member: Member, space: SpaceName = "nb201", n: Count = 1, max_params: Params = None, max_macs: Macs = None,
    max_depth: Depth = None, ops: Ops = None, seed: Seed = 0, as_json: Json = False,
) -> int:  # fmt: skip
    """Change one choice of a member; what depends on it follows."""
    with quiet_stdout(as_json):
        import numpy as np

        from genmad.search.operators import mutate as change

        where, grammar, limits = _setting(space, max_params, max_macs, max_depth, ops)
        word = _inside(where, grammar, limits, member)
        rng = np.random.default_rng(seed)
        words = change(grammar, np.repeat(word, max(4 * n, 16), axis=0), rng, limits)
        words = words[(words != word).any(1)]
    return _answer(where, words, n, as_json=as_json)


def cross(
    first: Member, second: Member, space: SpaceName = "nb201", n: Count = 1, max_params: Params = None,
    max_macs: Macs = None, max_depth: Depth = None, ops: Ops = None, seed: Seed = 0, as_json: Json = False,
) -> int:  # fmt: skip
    """Mix two members, choice by choice."""
    with quiet_stdout(as_json):
        import numpy as np

        from genmad.search.operators import cross as mix

        where, grammar, limits = _setting(space, max_params, max_macs, max_depth, ops)
        parents = [np.array([where.from_text(text)], np.int16) for text in (first, second)]
        rows = [np.repeat(parent, max(4 * n, 16), axis=0) for parent in parents]
        words = mix(grammar, rows[0], rows[1], np.random.default_rng(seed), limits)
    return _answer(where, words, n, as_json=as_json)


def complete(
    partial: Partial = None,
    space: SpaceName = "nb201", n: Count = 1, max_params: Params = None, max_macs: Macs = None,
    max_depth: Depth = None, ops: Ops = None, seed: Seed = 0, model: Generator = None,
    steps: Annotated[bool, typer.Option("--steps", help="Name the steps and their choices, and stop.")] = False,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Fill in what a partial member leaves open."""
    with quiet_stdout(as_json):
        from genmad.sampling.pools import PoolSampler, UniformLaw, conditions_for, load_law
        from genmad.search.operators import fixed_choices
        from genmad.spaces import get_space

        where = get_space(space)
        if steps:
            return _show_steps(where, as_json=as_json)
        if partial is None:
            fix = f"genmad complete --steps --space {where.name} names the steps and their choices"
            raise usage_error("genmad complete", "no FILE", "a JSON file of steps and choices", fix)
        try:
            fixed = fixed_choices(where.grammar(), _read(partial))
        except LookupError as error:
            raise usage_error(
                str(partial), str(error.args[0]), "steps and choices of the space",
                f"genmad complete --steps --space {where.name} names them",
            ) from None  # fmt: skip
        limits = limits_of(params=max_params, macs=max_macs, depth=max_depth)
        conditions = conditions_for(where, limits=limits, ops=_split(ops), fixed=fixed)
        law = UniformLaw() if model == "uniform" else load_law(where, model)
        words = PoolSampler(space=where, law=law, conditions=conditions, seed=seed).draw(n).words
    return _answer(where, words, n, as_json=as_json)


def _setting(space: str, params: str | None, macs: str | None, depth: str | None, ops: str | None) -> tuple[Any, ...]:
    from genmad.sampling.pools import conditions_for
    from genmad.sampling.pools.drawing import grammar_of
    from genmad.spaces import get_space

    where = get_space(space)
    limits = limits_of(params=params, macs=macs, depth=depth)
    return (where, *grammar_of(where, conditions_for(where, limits=limits, ops=_split(ops))))


def _split(ops: str | None) -> frozenset[str] | None:
    return None if ops is None else frozenset(filter(None, (op.strip() for op in ops.split(","))))


def _inside(space: Space, grammar: Any, limits: Any, member: str) -> Words:
    """The word of a member that itself meets the conditions. Raises `UsageError` on another."""
    import numpy as np

    word: Words = np.array([space.from_text(member)], np.int16)
    good = bool(grammar.accepts(word)[0])
    over = good and any(
        limit is not None and cost > limit for cost, limit in zip(grammar.costs(word)[0].tolist(), limits, strict=True)
    )
    if not good or over:
        fix = "raise the budget, allow its ops, or start from another member"
        raise usage_error("MEMBER", "a member outside the ops or budgets given", "one that meets them", fix)
    return word


def _answer(space: Space, words: Words, n: int, *, as_json: bool) -> int:
    from genmad.spaces.split import representatives

    kept = representatives(space, words)[:n]
    if not len(kept):
        raise _nothing(space)
    texts = [space.to_text(tuple(word)) for word in kept.tolist()]
    if as_json:
        costs = space.costs(kept).tolist() if len(kept) else []
        rows = [
            {"encoding": text, "canonical_hash": key, "params": cost[0], "macs": cost[1], "depth": cost[2]}
            for text, key, cost in zip(texts, space.hashes(kept), costs, strict=True)
        ]
        emit_json({"status": "ok", "space": space.name, "asked": n, "n": len(rows), "members": rows})
        return 0
    show(*texts)
    if len(texts) < n:
        warn(f"asked for {n:,}, found {len(texts):,}: another --seed or wider conditions may give more")
    return 0


def _nothing(space: Space) -> Exception:
    from genmad.ir.diagnostics import Diagnostic
    from genmad.report import NoValidResultError

    expected, fix = "at least one that meets the conditions", "widen --max-params, --max-macs, --max-depth or --ops"
    return NoValidResultError(Diagnostic(where=space.name, got="no member", expected=expected, fix=fix))


def _show_steps(space: Space, *, as_json: bool) -> int:
    table = {step.name: list(step.choices) for step in space.steps}
    if as_json:
        emit_json({"space": space.name, "steps": table})
    else:
        show(*(f"{name}: {', '.join(choices)}" for name, choices in table.items()))
    return 0


def _read(path: Path) -> dict[str, str]:
    """The partial member in a JSON file. Raises `UsageError` on another thing."""
    try:
        if path.stat().st_size > 1 << 20:
            raise ValueError("a file beyond 1 MiB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        got = (error.strerror if isinstance(error, OSError) else None) or str(error)
        fix = "genmad complete --steps names the steps and their choices"
        raise usage_error(str(path), got, "a JSON file of steps and choices", fix) from None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        fix = 'for example {"edge 0-1": "nor_conv_3x3"}; genmad complete --steps names the steps'
        raise usage_error(str(path), "another JSON than that", "an object, step -> choice, both texts", fix)
    return found
