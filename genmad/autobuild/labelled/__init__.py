"""Benchmarks as labelled graphs for predictors: `load_set("nb201", data)`; one file per family of sources.

Tables are read from a folder that the user gives (`--data` or $GENMAD_DATA); none is shipped.
"""

import difflib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from genmad.autobuild.architecture import LabelledSet
from genmad.ir import Diagnostic
from genmad.spaces.grammar import SpaceError
from genmad.spaces.tables import DATA_VARIABLE, data_folder

_HW_GPT = ("genmad.autobuild.labelled.language", "load_hw_gpt")
# Name -> (module, function). A function is called as `load(name, data)`.
SETS: Mapping[str, tuple[str, str]] = {
    "nb201": ("genmad.autobuild.labelled.edge_cells", "load_nb201"),
    "nb201_edges": ("genmad.autobuild.labelled.edge_cells", "load_nb201"),
    "transnas": ("genmad.autobuild.labelled.edge_cells", "load_transnas"),
    "nb101": ("genmad.autobuild.labelled.node_cells", "load_nb101"),
    "nb_graph": ("genmad.autobuild.labelled.node_cells", "load_nb_graph"),
    "ofa_mbv3": ("genmad.autobuild.labelled.ofa", "load_ofa"),
    "ofa_mbv3_surrogate": ("genmad.autobuild.labelled.ofa", "load_ofa"),
    "ofa_pn_surrogate": ("genmad.autobuild.labelled.ofa", "load_ofa"),
    "nb_macro": ("genmad.autobuild.labelled.macro", "load_nb_macro"),
    "accel": ("genmad.autobuild.labelled.macro", "load_accel"),
    "nas_bench_bert": ("genmad.autobuild.labelled.language", "load_bert"),
    "hw_gpt_s": _HW_GPT,
    "hw_gpt_m": _HW_GPT,
    "hw_gpt_l": _HW_GPT,
    **{f"hw_gpt_s_{width}": _HW_GPT for width in (192, 384, 768)},
    **{f"hw_gpt_m_{width}": _HW_GPT for width in (256, 512, 1024)},
    **{f"hw_gpt_l_{width}": _HW_GPT for width in (320, 640, 1280)},
}


def load_set(name: str, data: str | Path | None = None) -> LabelledSet:
    """The labelled set of that name, from the tables below `data` or $GENMAD_DATA.

    Raises `SpaceError`: a name that is not in `SETS`, no folder, a table that is missing or has a bad row.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        fix = f"{near[0]}" if near else ""
        expected = f"one of {', '.join(SETS)}"
        raise SpaceError(Diagnostic(where="labelled set", got=name, expected=expected, fix=fix))
    folder = data_folder(data)
    if folder is None:
        raise SpaceError(
            Diagnostic(
                where=f"labelled set {name}", got="no folder of benchmark tables", expected="one that holds its table",
                fix=f"--data FOLDER, or set ${DATA_VARIABLE}",
            )
        )  # fmt: skip
    module, function = SETS[name]
    made: LabelledSet = getattr(import_module(module), function)(name, folder)
    return made
