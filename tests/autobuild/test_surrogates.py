"""The forward pass of the published predictors, against loops on made-up weights and against the published vectors."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from genmad.autobuild.surrogates import HOPS, SHAPES, PublishedPredictor, load_published, read_arrays
from genmad.spaces.grammar import SpaceError
from genmad.spaces.ofa import OfaMbv3, OfaPN, OfaSpace


def made_up(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {name: (rng.standard_normal(shape) * 0.1).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: np.abs(array) if name.endswith("running_var") else array for name, array in arrays.items()}


def by_loops(a: dict[str, np.ndarray], stages: list[list[tuple[int, int]]], kind: int, resolution: int) -> float:
    """Node by node, as the tables' description says it."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return np.asarray(a[f"{name}.weight"] @ x + a[f"{name}.bias"])

    h = []
    for s, layers in enumerate(stages):
        for j, (kernel, expand) in enumerate(layers):
            picks = {"stage": s, "block": j, "mbconv": kind, "exp": {3: 0, 4: 1, 6: 2}[expand],
                     "kernel": {3: 0, 5: 1, 7: 2}[kernel]}  # fmt: skip
            row = [linear(f"embed_layer.{n}_mlp", a[f"embed_layer.{n}_embed.weight"][i])[0] for n, i in picks.items()]
            side = linear("embed_layer.res_mlp.0", np.array([(resolution - 192) / 32]))
            h.append(np.abs(np.array([*row, linear("embed_layer.res_mlp.1", side)[0]])))
    for hop in range(HOPS):
        out = []
        for i, x in enumerate(h):
            before = h[i - 1] if i else np.zeros_like(x)
            z = linear(f"encoder.gnn_layers.{hop}.lin_rel", before) + a[f"encoder.gnn_layers.{hop}.lin_root.weight"] @ x
            bn = f"encoder.bns.{hop}.module"
            z = (z - a[f"{bn}.running_mean"]) / np.sqrt(a[f"{bn}.running_var"] + 1e-5)
            z = z * a[f"{bn}.weight"] + a[f"{bn}.bias"]
            z = np.where(z > 0, z, 0.01 * z)
            out.append(z + x if hop else z)
        h = out
    g = np.maximum(linear("post_proj.1", linear("post_proj.0", np.sum(h, axis=0))), 0)
    g = linear("post_proj.4", linear("post_proj.3", g))
    return float(linear("regressor", np.where(g > 0, g, 0.01 * g))[0])


@pytest.mark.parametrize(("space", "kind"), [(OfaMbv3(), 1), (OfaPN(), 0)])
def test_the_batched_pass_is_the_one_node_by_node(space: OfaSpace, kind: int) -> None:
    """Guards the edges between networks of a batch: the first layer of one must not read the last of another."""
    arrays = made_up()
    predictor = PublishedPredictor(space=space, target="acc", arrays=arrays)
    words = space.sample(np.random.default_rng(1), 5)
    found = predictor.predict(words, resolution=176)
    expected = [by_loops(arrays, space.stages(tuple(word)), kind, 176) for word in words.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(found[2:3], predictor.predict(words[2:3], resolution=176), rtol=1e-5)


def test_files_are_read_back_and_refused_with_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "mbv3_acc.npz"
    arrays = made_up()
    np.savez(path, **arrays)
    assert set(read_arrays(path)) == set(SHAPES)
    broken = {**arrays, "regressor.bias": np.array([np.nan], np.float32), "stray": np.zeros(2)}
    broken["post_proj.0.weight"] = np.zeros((3, 128), np.float32)
    del broken["post_proj.1.bias"]
    np.savez(path, **broken)
    with pytest.raises(SpaceError) as caught:
        read_arrays(path)
    for part in ("post_proj.1.bias missing", "stray unknown", "regressor.bias not finite", "[3, 128] instead of"):
        assert part in str(caught.value)


def test_objects_and_bombs_are_refused(tmp_path: Path) -> None:
    """An array of objects would be a pickle; a small file may unpack to gigabytes."""
    path = tmp_path / "mbv3_acc.npz"
    np.savez(path, **{**made_up(), "regressor.bias": np.array([print], object)})
    with pytest.raises(SpaceError, match="allow_pickle=False"):
        read_arrays(path)
    np.savez_compressed(path, big=np.zeros(8 << 20, np.float64))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(SpaceError, match=r"67,.* bytes unpacked"):
        read_arrays(path)
    path.write_bytes(b"no zip")
    with pytest.raises(SpaceError, match="BadZipFile"):
        read_arrays(path)


def test_a_folder_without_the_files_says_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"no mbv3_acc\.npz.*l1_models"):
        load_published(tmp_path, "mbv3")


@pytest.mark.parametrize("family", ["mbv3", "pn"])
def test_published_vectors_are_reproduced(family: str) -> None:
    folder = os.environ.get("GENMAD_DATA")
    if not folder or not (Path(folder) / "autobuild_surrogates").is_dir():
        pytest.skip("no published predictors: set GENMAD_DATA to a folder that holds autobuild_surrogates")
    oracle = load_published(Path(folder), family)
    vectors = json.loads((Path(folder) / "autobuild_surrogates" / "test_vectors.json").read_text())
    own = [vector for vector in vectors if vector["family"] == family]
    assert len(own) >= 5
    space = oracle["acc"].space
    for vector in own:
        stages = [[(x["kernel"], x["expand"]) for x in stage] for stage in vector["stages"]]
        word = np.array([space.word_of(stages)], np.int16)
        for target, expected in vector["expected"].items():
            found = oracle[target].predict(word, resolution=vector["resolution"])[0]
            assert found == pytest.approx(expected, rel=1e-4), (vector["name"], target)
