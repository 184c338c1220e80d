"""The AutoBuild authors' published predictors of accuracy and latency, read from the user's own `.npz` files.

They are the oracles of the paper's fig. 5 (section 7.4): graph convolutions with sum aggregation, which the authors
trained on networks cut from two Once-for-All supernets. Files hold plain arrays only; nothing in them is executed.

N networks, M layers of all of them one after another, D width (128).
"""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genmad.autobuild.architecture import Floats, Ints
from genmad.ir import Diagnostic
from genmad.spaces.grammar import SpaceError, Words
from genmad.spaces.ofa import LAYERS, NONE, OfaMbv3, OfaPN, OfaSpace

Arrays = Mapping[str, NDArray[np.float32]]
WIDTH = 128
HOPS = 4
SLOPE = 0.01
"""Of every leaky ReLU."""
NORM_EPS = 1e-5
MAX_BYTES = 16 << 20
CHUNK = 1024
TARGETS = ("acc", "latency_gpu", "latency_cpu", "latency_npu")
"""Accuracy as a fraction; milliseconds on an RTX 2080 Ti, a Threadripper 2990WX and a Kirin 9000."""
# Category -> (choices, width of its embedding).
_CATEGORIES = {"stage": (6, 3), "block": (4, 2), "mbconv": (2, 2), "exp": (3, 2), "kernel": (3, 3)}
_SPACES: Mapping[str, Callable[[], OfaSpace]] = {
    "mbv3": lambda: OfaMbv3(width=1.2),
    "pn": lambda: OfaPN(width=1.3),
}


def _expected_shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, (choices, width) in _CATEGORIES.items():
        found |= {f"embed_layer.{name}_embed.weight": (choices, width)}
        found |= _linear(f"embed_layer.{name}_mlp", width, 1)
    found |= _linear("embed_layer.res_mlp.0", 1, 3) | _linear("embed_layer.res_mlp.1", 3, 1)
    for hop in range(HOPS):
        before = WIDTH if hop else len(_CATEGORIES) + 1
        found |= _linear(f"encoder.gnn_layers.{hop}.lin_rel", before, WIDTH)
        found |= {f"encoder.gnn_layers.{hop}.lin_root.weight": (WIDTH, before)}
        found |= {f"encoder.bns.{hop}.module.{part}": (WIDTH,) for part in ("weight", "bias", "running_mean")}
        found |= {f"encoder.bns.{hop}.module.running_var": (WIDTH,)}
    for layer in (0, 1, 3, 4):
        found |= _linear(f"post_proj.{layer}", WIDTH, WIDTH)
    return found | _linear("regressor", WIDTH, 1)


def _linear(name: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


SHAPES: Mapping[str, tuple[int, ...]] = _expected_shapes()
"""Name -> shape of every array of a file."""


@dataclass(frozen=True, kw_only=True)
class PublishedPredictor:
    """One predictor; `predict` gives its label's own units.

    Attributes:
        space: whose networks it reads.
        target: one of `TARGETS`.
        arrays: float32 weights by the names of `SHAPES`.
    """

    space: OfaSpace
    target: str
    arrays: Arrays

    def predict(self, words: Words, *, resolution: int = 224) -> Floats:
        """float64[N]: predictions for int16[N, T] words at this side of the input image in pixels.

        Accuracy was checked against outside measurements at 224 only.
        """
        parts = [self._part(words[i : i + CHUNK], resolution) for i in range(0, len(words), CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _part(self, words: Words, resolution: int) -> Floats:
        choices, starts = layers_of(self.space, words)
        h = self._features(choices, resolution)
        is_first = np.zeros(len(choices), np.bool_)
        is_first[starts] = True
        for hop in range(HOPS):
            before = np.where(is_first[:, None], np.float32(0), np.roll(h, 1, axis=0))
            name = f"encoder.gnn_layers.{hop}"
            z = self._linear(f"{name}.lin_rel", before) + h @ self.arrays[f"{name}.lin_root.weight"].T
            z = _leaky(self._norm(f"encoder.bns.{hop}.module", z))
            h = z + h if hop else z
        g = np.add.reduceat(h, starts, axis=0)
        g = np.maximum(self._linear("post_proj.1", self._linear("post_proj.0", g)), 0)
        g = _leaky(self._linear("post_proj.4", self._linear("post_proj.3", g)))
        return self._linear("regressor", g)[:, 0].astype(np.float64)

    def _features(self, choices: Ints, resolution: int) -> NDArray[np.float32]:
        """float32[M, 6]: the absolute scalar of each category."""
        kind = np.full((len(choices), 1), 1 if isinstance(self.space, OfaMbv3) else 0)
        rows = np.concatenate([choices[:, :2], kind, choices[:, 2:]], axis=1)
        columns = []
        for number, name in enumerate(_CATEGORIES):
            per_choice = self._linear(f"embed_layer.{name}_mlp", self.arrays[f"embed_layer.{name}_embed.weight"])
            columns.append(per_choice[rows[:, number], 0])
        side = np.full((1, 1), (resolution - 192) / 32, np.float32)
        scalar = self._linear("embed_layer.res_mlp.1", self._linear("embed_layer.res_mlp.0", side))[0, 0]
        return np.abs(np.stack([*columns, np.full(len(rows), scalar, np.float32)], axis=1))

    def _linear(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(x @ self.arrays[f"{name}.weight"].T + self.arrays[f"{name}.bias"])

    def _norm(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Batch norm with its running moments."""
        gain = self.arrays[f"{name}.weight"] / np.sqrt(self.arrays[f"{name}.running_var"] + np.float32(NORM_EPS))
        return np.asarray((x - self.arrays[f"{name}.running_mean"]) * gain + self.arrays[f"{name}.bias"])


def _leaky(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(x > 0, x, np.float32(SLOPE) * x)


def layers_of(space: OfaSpace, words: Words) -> tuple[Ints, Ints]:
    """The layers of all words one after another: int64[M, 4] of stage, place in it, number of the expansion (of 3, 4,
    6), number of the kernel (of 3, 5, 7); and int64[N], where each word's layers begin."""
    there = words != NONE
    row, step = np.nonzero(there)
    kinds = words[row, step].astype(np.int64)
    places = np.array(space.places, np.int64)
    kernels = np.array([(3, 5, 7).index(kernel) for kernel, _ in LAYERS])
    expands = np.array([(3, 4, 6).index(expand) for _, expand in LAYERS])
    starts = np.concatenate([[0], np.cumsum(there.sum(1))[:-1]]).astype(np.int64)
    return np.column_stack([places[step], expands[kinds], kernels[kinds]]), starts


def load_published(data: Path, family: str) -> dict[str, PublishedPredictor]:
    """The predictors of `mbv3` or `pn` by target, from `autobuild_surrogates/` below `data` or from `data` itself.

    Raises `SpaceError` where one is missing or is not such a file.
    """
    space = _SPACES[family]()
    found = {}
    for target in TARGETS:
        name = f"{family}_{target}.npz"
        path = next((p for p in (data / "autobuild_surrogates" / name, data / name) if p.is_file()), None)
        if path is None:
            raise SpaceError(
                Diagnostic(
                    where=str(data), got=f"no {name}", expected="the published predictors as plain arrays",
                    fix="convert l1_models/ of github.com/Ascend-Research/AutoBuild to .npz, names as they are",
                )
            )  # fmt: skip
        found[target] = PublishedPredictor(space=space, target=target, arrays=read_arrays(path))
    return found


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of one file. Raises `SpaceError` on a file too large, with other arrays, or not finite."""
    expected = f"{len(SHAPES)} float arrays of a published predictor, at most {MAX_BYTES >> 20} MiB"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise SpaceError(Diagnostic(where=str(path), got=f"{size:,} bytes unpacked", expected=expected))
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        got = f"{type(error).__name__}: {error}"
        raise SpaceError(Diagnostic(where=str(path), got=got, expected=expected)) from error
    wrong = [f"{name} missing" for name in SHAPES if name not in arrays]
    wrong += [f"{name} unknown" for name in arrays if name not in SHAPES]
    for name, array in arrays.items():
        if name in SHAPES and (array.shape != SHAPES[name] or array.dtype.kind != "f"):
            wrong.append(f"{name} {array.dtype}{list(array.shape)} instead of {list(SHAPES[name])}")
        elif name in SHAPES and not np.isfinite(array).all():
            wrong.append(f"{name} not finite")
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise SpaceError(Diagnostic(where=str(path), got="; ".join(wrong[:6]) + more, expected=expected))
    return {name: array.astype(np.float32) for name, array in arrays.items()}
