"""Measured latencies of Once-for-All MobileNetV3 networks, read from the user's tables; milliseconds throughout.

HELP (Lee et al., NeurIPS 2021): 5,000 networks at 25 resolutions, measured end to end in 12 settings, each a device and
a batch size. A table of an Intel i7-8700K (Lu et al., NSGANetV2, ECCV 2020): every layer at every size of its input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genmad.autobuild.architecture import Floats, Ints
from genmad.ir import Diagnostic
from genmad.spaces.grammar import SpaceError, Words
from genmad.spaces.ofa import OfaMbv3
from genmad.spaces.ofa_graph import Layer, rounded
from genmad.spaces.space import Word
from genmad.spaces.tables import csv_rows, find_table, json_lines

HELP_FILES = ("ofa_mbv3_help_latency/latencies.jsonl.gz", "latencies.jsonl.gz")
TABLE_FILES = ("ofa_mbv3_lut_i7_8700k/lut.csv.gz", "lut.csv.gz")
_KEY = ("op", "in_h", "in_c", "out_c", "expand", "kernel", "stride", "se")


@dataclass(frozen=True, kw_only=True)
class MeasuredLatencies:
    """Networks of one space with end-to-end latencies.

    Attributes:
        words: int16[N, T].
        resolution: int64[N], side of the input image in pixels.
        latency_ms: setting, such as `v100_32` (device and batch size) -> float64[N].
    """

    space: OfaMbv3
    words: Words
    resolution: Ints
    latency_ms: Mapping[str, Floats]


def load_help(data: Path) -> MeasuredLatencies:
    """HELP's latencies. Raises `SpaceError` where the table is missing or a row is none."""
    path = _table(data, HELP_FILES, "data/ofa of github.com/HayeonLee/HELP as JSON Lines")
    space = OfaMbv3(width=1.2)
    words, sides, found = [], [], []
    for number, row in enumerate(json_lines(path), 1):
        try:
            words.append(space.word_of([[(x["kernel"], x["expand"]) for x in stage] for stage in row["stages"]]))
            sides.append(int(row["resolution"]))
            found.append({str(name): float(value) for name, value in row["latency_ms"].items()})
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _bad_row(path, number, f"{type(error).__name__}: {error}") from error
        values = found[-1].values()
        if found[-1].keys() != found[0].keys() or not all(np.isfinite(v) and v > 0 for v in values):
            raise _bad_row(path, number, f"latencies {found[-1]}")
    if not found:
        raise _bad_row(path, 1, "no row")
    return MeasuredLatencies(
        space=space, words=np.array(words, np.int16), resolution=np.array(sides, np.int64),
        latency_ms={name: np.array([row[name] for row in found]) for name in found[0]},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """Latency of every layer by what it is; the sum is the latency of a network, as far as layers add up.

    Attributes:
        latency_ms: (op, input side, input channels, output channels, expansion, kernel, stride, squeeze) -> mean.
        width: the multiplier of channels that is looked up.
    """

    space: OfaMbv3
    latency_ms: Mapping[tuple[str, ...], float]
    width: float

    def latency(self, word: Word, resolution: int) -> float:
        """The sum over stem, layers and head. Raises `KeyError` on a layer that was not measured."""
        stem = rounded(16 * self.width)
        total = self.latency_ms["first_conv", str(resolution), "3", str(stem), "", "", "", ""]
        side, before = (resolution + 1) // 2, stem
        total += self._layer(side, before, stem, (3, 1), 1, squeeze=False)
        for stage, layers in zip(self.space.supernet.stages, self.space.stages(word), strict=True):
            after = rounded(stage.channels * self.width)
            for j, layer in enumerate(layers):
                stride = stage.stride if j == 0 else 1
                total += self._layer(side, before, after, layer, stride, squeeze=stage.squeeze)
                side, before = (side + stride - 1) // stride, after
        wide, last = 6 * before, round(1280 * self.width)
        total += self.latency_ms["final_expand_layer", str(side), str(before), str(wide), "", "", "", ""]
        total += self.latency_ms["feature_mix_layer", "1", str(wide), str(last), "", "", "", ""]
        # The table gives the classifier's input channels as its side.
        return total + self.latency_ms["classifier", str(last), "", "", "", "", "", ""]

    def _layer(self, side: int, before: int, after: int, layer: Layer, stride: int, *, squeeze: bool) -> float:
        kernel, expand = layer
        key = ("MBConv", *map(str, (side, before, after, expand, kernel, stride, int(squeeze))))
        return self.latency_ms[key]


def load_layer_table(data: Path, *, width: float = 1.2) -> LayerTable:
    """The i7 table, for the supernet of width 1.0 or 1.2. Raises `SpaceError`."""
    path = _table(data, TABLE_FILES, "data/i7-8700K_lut.yaml of github.com/mikelzc1990/nsganetv2 as CSV")
    found = {}
    for number, row in enumerate(csv_rows(path, (*_KEY, "latency_ms_mean")), 2):
        try:
            found[tuple(row[name] for name in _KEY)] = float(row["latency_ms_mean"])
        except ValueError as error:
            raise _bad_row(path, number, str(error)) from error
    return LayerTable(space=OfaMbv3(width=width), latency_ms=found, width=width)


def _table(data: Path, names: Sequence[str], original: str) -> Path:
    path = find_table(data, *names)
    if path is None:
        raise SpaceError(Diagnostic(where=str(data), got=f"no {names[0]}", expected=original))
    return path


def _bad_row(path: Path, number: int, got: str) -> SpaceError:
    expected = "a network of ofa_mbv3 with positive latencies in milliseconds"
    return SpaceError(Diagnostic(where=f"{path} line {number}", got=got[:300], expected=expected))
