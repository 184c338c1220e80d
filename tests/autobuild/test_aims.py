"""`aim(acc, lat, 7.5)` as a target: the equation it becomes, and that what is then built has the wished latency."""

import csv
from pathlib import Path

import numpy as np
import pytest

from genmad.autobuild.additive import AdditiveSolver, best_modules, factors_of, words_of
from genmad.autobuild.aims import resolve_aim
from genmad.autobuild.encodings import get_encoding
from genmad.autobuild.equations import EquationError, parse_equation
from genmad.autobuild.labels import read_labels
from genmad.spaces.grammar import Words
from genmad.spaces.ofa import LAYERS, NONE, OfaMbv3


def toy(words: Words) -> dict[str, np.ndarray]:
    """Latency is the work of the layers; accuracy grows with its square root, and with a taste for kernel 5."""
    work = np.array([kernel * expand for kernel, expand in LAYERS] + [0])[words]
    taste = np.array([0.5 if kernel == 5 else 0.0 for kernel, _ in LAYERS] + [0.0])[words]
    return {"acc": 60 + (np.sqrt(work) + taste).sum(1) / 6, "lat": 1 + work.sum(1) / 40}


def built(words: Words, targets: np.ndarray) -> Words:
    """The best module of every stage, by ridge."""
    modules = get_encoding("ofa_mbv3").modules
    assert modules is not None
    factors = factors_of(modules)
    scores = AdditiveSolver.of(words).fit(targets).module_scores(factors)
    return np.concatenate(best_modules(factors, scores, 1), axis=1)


@pytest.mark.parametrize("wish", [10.0, 14.0])
def test_what_is_built_for_an_aim_has_the_wished_latency(wish: float) -> None:
    space, modules = OfaMbv3(), get_encoding("ofa_mbv3").modules
    words = space.sample(np.random.default_rng(0), 900)
    columns, texts = toy(words), [space.to_text(tuple(word)) for word in words.tolist()]
    found = resolve_aim(f"aim(acc, lat, {wish})", columns, modules, texts)
    assert found is not None
    assert found.aim == wish
    made = toy(built(words, parse_equation(found.text, ("acc", "lat")).evaluate(columns)))
    assert abs(made["lat"][0] - wish) < 1.0
    # Better than every labelled network that is not slower.
    assert made["acc"][0] > columns["acc"][columns["lat"] <= made["lat"][0]].max()


def test_words_of_texts_are_the_spaces_own() -> None:
    space, modules = OfaMbv3(), get_encoding("ofa_mbv3").modules
    assert modules is not None
    words = space.sample(np.random.default_rng(1), 20)
    np.testing.assert_array_equal(words_of(modules, [space.to_text(tuple(w)) for w in words.tolist()]), words)
    assert (words == NONE).any()


def test_few_labels_are_aimed_at_by_the_best_of_them() -> None:
    space, modules = OfaMbv3(), get_encoding("ofa_mbv3").modules
    words = space.sample(np.random.default_rng(0), 60)
    texts = [space.to_text(tuple(word)) for word in words.tolist()]
    found = resolve_aim("aim(acc, lat, 50%)", toy(words), modules, texts)
    assert found is not None
    assert found.cost in np.median(np.lib.stride_tricks.sliding_window_view(np.sort(toy(words)["lat"]), 1), axis=1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("aim(acc, lat)", "aim\\(QUALITY, COST, NUMBER\\)"),
        ("aim(acc, latt, 7)", "did you mean lat"),
        ("aim(acc, lat, 70)", "on the labelled front"),
        ("aim(acc, lat, 7e)", "a number"),
        ("aim(acc, lat, 120%)", "0 to 1"),
    ],
)
def test_bad_aims_are_refused(target: str, message: str) -> None:
    columns = toy(OfaMbv3().sample(np.random.default_rng(0), 40))
    with pytest.raises(EquationError, match=message):
        resolve_aim(target, columns, None, ())


def test_a_label_file_takes_an_aim_and_says_what_it_became(tmp_path: Path) -> None:
    space = OfaMbv3()
    words = np.unique(space.sample(np.random.default_rng(2), 80), axis=0)
    columns = toy(words)
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["encoding", "acc", "lat"])
        table.writerows(
            [space.to_text(tuple(word)), acc, lat]
            for word, acc, lat in zip(words.tolist(), columns["acc"], columns["lat"], strict=True)
        )
    labels = read_labels(path, space="ofa_mbv3", target="aim(acc, lat, 60%)")
    np.testing.assert_allclose(labels.values, parse_equation(labels.target, ("acc", "lat")).evaluate(columns))
    assert "proposed for" in labels.notes[0]
    assert "acc: percent" in labels.notes[0]
    assert "lat: ms" in labels.notes[0]
    plain = read_labels(path, space="ofa_mbv3", target="acc/lat")
    assert plain.notes[0].startswith("the target is acc/lat (acc: percent")
