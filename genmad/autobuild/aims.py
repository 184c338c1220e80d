"""Targets that name a wish instead of an equation: `aim(acc, lat, 7.5)`, the best accuracy at a latency near 7.5.

`aim(acc, lat, 60%)` is the place 60 % of the way along the labelled front. What is put in is the equation that
`propose_equations` finds for what will be built from the labels.
"""

import re
from collections.abc import Mapping, Sequence

from genmad.autobuild.additive import AdditiveSolver, built_by_addition, factors_of, words_of
from genmad.autobuild.architecture import Floats
from genmad.autobuild.equations import EquationError, parse_equation
from genmad.autobuild.modules import ModuleSpace
from genmad.autobuild.proposals import Achieve, Proposal, propose_equations
from genmad.ir import Diagnostic

_NAME = r"`[^`]+`|[A-Za-z_]\w*"
_AIM = re.compile(rf"\s*aim\(\s*({_NAME})\s*,\s*({_NAME})\s*,\s*([0-9.eE+-]+)\s*(%?)\s*\)\s*")
# Below so many labels per weight the additive model is noise, and the best labelled say more.
LEAST_ROWS_PER_WEIGHT = 2.0


def resolve_aim(
    target: str, columns: Mapping[str, Floats], modules: ModuleSpace | None, texts: Sequence[str]
) -> Proposal | None:
    """The proposed equation of a target that is an aim; None for any other target.

    With `modules` and enough labels its number is set for what is built from them, else for the best labelled. Sums of
    module scores are what is built by, so only the families that add up are used then.

    Raises `EquationError` on an unknown column, on an aim off the labelled front, and where rows have no number.
    """
    if not target.strip().startswith("aim("):
        return None
    found = _AIM.fullmatch(target)
    if found is None:
        expected = "aim(QUALITY, COST, NUMBER) or aim(QUALITY, COST, PER CENT%), such as aim(acc, lat, 7.5)"
        raise EquationError(Diagnostic(where="target", got=target, expected=expected))
    names = (found.group(1).strip("`"), found.group(2).strip("`"))
    for name in found.groups()[:2]:
        parse_equation(name, list(columns))
    quality, cost = (columns[name] for name in names)
    number = _number(found.group(3))
    place = {"quantile": number / 100} if found.group(4) else {"aim": number}
    achieve = _achieve(modules, texts, quality, cost)
    families = ("linear", "log", "reach") if achieve is None else ("linear", "log")
    return propose_equations(quality, cost, names=names, achieve=achieve, families=families, **place)[0]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise EquationError(Diagnostic(where="target", got=f"the aim {text}", expected="a number")) from None


def _achieve(modules: ModuleSpace | None, texts: Sequence[str], quality: Floats, cost: Floats) -> Achieve | None:
    """What is built from these labels; None where there are no stages, or too few labels, or costs without logarithm
    (which `propose_equations` refuses with the row)."""
    if modules is None or not (cost > 0).all():
        return None
    words = words_of(modules, texts)
    factors = factors_of(modules)
    weights = words.shape[1] * int(words.max())
    if len(words) < LEAST_ROWS_PER_WEIGHT * weights:
        return None
    choices = 1 + max(int(factor.max()) for factor in factors)
    return built_by_addition(AdditiveSolver.of(words, choices=choices), factors, quality, cost)


def scaling_notes(target: str, columns: Mapping[str, Floats], aimed: Proposal | None) -> tuple[str, ...]:
    """What an equation is and in what unit each column enters it, in words; nothing for a plain column."""
    if target in columns:
        return ()
    equation = parse_equation(target, list(columns))
    units = "; ".join(map(str, equation.scalings(columns)))
    told = "" if aimed is None else f", proposed for {aimed.aim:.4g} and reaching {aimed.cost:.4g}"
    return (f"the target is {target}{told} ({units})",)
