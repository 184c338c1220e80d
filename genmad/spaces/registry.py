"""Every space by name; a space is loaded when it is asked for."""

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import import_module

from genmad.ir import Diagnostic
from genmad.spaces.grammar import SpaceError
from genmad.spaces.space import Space

# Name -> (module, class).
SPACES: Mapping[str, tuple[str, str]] = {
    "nb101": ("genmad.spaces.nb101", "NB101"),
    "nb201": ("genmad.spaces.nb201", "NB201"),
    "darts": ("genmad.spaces.darts", "Darts"),
    "enas": ("genmad.spaces.enas", "Enas6"),
    "ofa_mbv3": ("genmad.spaces.ofa", "OfaMbv3"),
    "ofa_pn": ("genmad.spaces.ofa", "OfaPN"),
    "hw_gpt_s": ("genmad.spaces.hw_gpt", "HwGptS"),
    "hw_gpt_m": ("genmad.spaces.hw_gpt", "HwGptM"),
    "hw_gpt_l": ("genmad.spaces.hw_gpt", "HwGptL"),
    "tfpp": ("genmad.spaces.tfpp", "Tfpp"),
    "tfpp_homogeneous": ("genmad.spaces.tfpp", "TfppHomogeneous"),
    "tfpp_single": ("genmad.spaces.tfpp", "TfppSingle"),
    "nas_bench_bert": ("genmad.spaces.bert", "NasBenchBert"),
}
# Other names that people type.
ALIASES: Mapping[str, str] = {
    "nas-bench-101": "nb101", "nasbench101": "nb101", "nas-bench-201": "nb201", "nasbench201": "nb201",
    "nats-bench": "nb201", "nb301": "darts", "nas-bench-301": "darts", "enas6": "enas", "enas-6": "enas",
    "mbv3": "ofa_mbv3", "pn": "ofa_pn", "hw-gpt-bench": "hw_gpt_s", "hw_gpt": "hw_gpt_s", "transformer++": "tfpp",
    "nas-bench-bert": "nas_bench_bert", "flexibert": "nas_bench_bert",
}  # fmt: skip


def get_space(name: str) -> Space:
    """The space of that name. Raises `SpaceError` with the nearest names."""
    low = name.lower()
    low = ALIASES.get(low, low)
    if low not in SPACES:
        near = difflib.get_close_matches(low, [*SPACES, *ALIASES], n=1)
        names = ", ".join(SPACES)
        fix = f"--space {ALIASES.get(near[0], near[0])}" if near else "genmad generate --list names them"
        raise SpaceError(Diagnostic(where="--space", got=name, expected=f"one of {names}", fix=fix), exit_code=2)
    return _load(low)


@cache
def _load(name: str) -> Space:
    module, attribute = SPACES[name]
    space: Space = getattr(import_module(module), attribute)()
    return space
