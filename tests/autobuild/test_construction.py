"""What is built out of module scores, the reduced space, and the files of both."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from genmad.autobuild.construction import BuildError, build, num_combined, top_modules
from genmad.autobuild.encodings import Encoding, get_encoding
from genmad.autobuild.labels import LabelError, Labels, read_labels
from genmad.autobuild.reduced import ReducedError, read_steps, reduce_space
from genmad.autobuild.score_folder import write_scores
from genmad.autobuild.score_reading import ScoreFolderError, read_scores
from genmad.autobuild.scores import StageScores
from genmad.autobuild.scoring import Scored, ScoreSettings, score_labels
from genmad.lowering.package import OutputError
from genmad.spaces import get_space
from tests.autobuild.scorers import AdditiveScorer


def _scores(name: str, seed: int = 0) -> tuple[Encoding, list[StageScores]]:
    encoding = get_encoding(name)
    assert encoding.modules is not None
    rng = np.random.default_rng(seed)
    return encoding, [
        StageScores(stage=stage, codes=codes, sizes=(codes >= 0).sum(1), members=rng.normal(size=(2, len(codes))))
        for stage, codes in zip(encoding.modules.stages, encoding.modules.codes, strict=True)
    ]


def test_the_best_of_all_combinations_comes_first() -> None:
    encoding, scores = _scores("nb201")
    built = build(encoding, scores, lambda texts: np.zeros(len(texts)), top_k=3, by="score")
    assert encoding.modules is not None
    best = encoding.modules.text([stage.codes[int(np.argmax(stage.score))].tolist() for stage in scores])
    assert built[0].text == best
    assert built[0].score == pytest.approx(sum(stage.score.max() for stage in scores))
    assert [each.score for each in built] == sorted((each.score for each in built), reverse=True)
    keys = encoding.keys([each.text for each in built])
    assert len(set(keys)) == len(keys) <= num_combined([3, 3, 3])


def test_predictions_rank_and_excluded_members_are_left_out() -> None:
    encoding, scores = _scores("nb_macro")

    def predict(texts: list[str]) -> np.ndarray:
        return np.array([float(text.count("1")) for text in texts])

    built = build(encoding, scores, predict, top_k=4, n=5)
    assert [each.predicted for each in built] == sorted((each.predicted for each in built), reverse=True)
    other = build(encoding, scores, predict, top_k=4, n=5, exclude=[built[0].text])
    assert built[0].text not in [each.text for each in other]
    assert other[0].text == built[1].text
    with pytest.raises(BuildError, match="all of them excluded"):
        build(encoding, scores, predict, top_k=1, exclude=[build(encoding, scores, predict, top_k=1)[0].text])


def test_constrained_gives_every_size_its_share() -> None:
    _, scores = _scores("ofa_mbv3")
    scores[0] = replace(scores[0], members=(scores[0].sizes * 10.0 + scores[0].members[0])[None])
    assert set(scores[0].sizes[top_modules(scores[0], 6)].tolist()) == {4}
    kept = top_modules(scores[0], 7, constrained=True)
    assert np.bincount(scores[0].sizes[kept]).tolist() == [0, 0, 2, 2, 3]
    assert (np.diff(scores[0].score[kept]) <= 0).all()
    assert len(top_modules(scores[0], 10_000, constrained=True)) == 7371


def test_spaces_without_stages_are_refused_with_what_to_type() -> None:
    with pytest.raises(BuildError, match="genmad search --space nb101"):
        build(get_encoding("nb101"), (), lambda texts: np.zeros(len(texts)), top_k=1)


def test_a_reduced_space_has_its_exact_sizes(tmp_path: Path) -> None:
    """The box is counted by its grammar and listed here."""
    encoding, scores = _scores("nb201")
    reduced = reduce_space(encoding, scores, top_k=2, target="acc")
    data = yaml.safe_load(reduced.to_yaml())
    assert data["size"] == 2 * 2 * 2 == np.prod([len(stage["modules"]) for stage in data["stages"]])
    assert data["size_of_space"] == 15_625
    path = tmp_path / "space.yaml"
    path.write_text(reduced.to_yaml(), encoding="utf-8")
    space = get_space("nb201")
    grammar = space.grammar().restrict(read_steps(path, space))
    texts = {space.to_text(tuple(word)) for word in grammar.words().tolist()}
    assert len(texts) == data["size_of_box"] == np.prod([len(choices) for choices in data["steps"].values()])
    assert {each.text for each in build(encoding, scores, lambda t: np.zeros(len(t)), top_k=2)} <= texts
    assert reduce_space(*_scores("ofa_mbv3"), top_k=3).size == 3**5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("space: nb101\nsteps: {}", "--space nb101"), ("space: nb201\nsteps: {edge 9-9: [none]}", "step 'edge 9-9'"),
        ("space: nb201\nsteps: {edge 0-1: [conv]}", "conv"), ("space: nb201\nsteps: {edge 0-1: []}", "no choice"),
        ("- a list", "a mapping"), ("{", "YAML"), ("!!python/object:os.system {}", "YAML"),
    ],
)  # fmt: skip
def test_bad_reduced_spaces_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ReducedError, match=words):
        read_steps(path, get_space("nb201"))


def _labels(tmp_path: Path, name: str, count: int = 24) -> Labels:
    encoding = get_encoding(name)
    rng = np.random.default_rng(0)
    if encoding.modules is not None:
        choices = [[codes[rng.integers(len(codes))].tolist() for codes in encoding.modules.codes] for _ in range(count)]
        texts = [encoding.modules.text(choice) for choice in choices]
    else:
        assert encoding.space is not None
        texts = [encoding.space.to_text(tuple(word)) for word in encoding.space.sample(rng, count).tolist()]
    texts = list(dict.fromkeys(texts))
    values = [encoding.graph(text).features.sum() + i / 100 for i, text in enumerate(texts)]
    path = tmp_path / "labels.csv"
    rows = [f'"{text}",{value},{i % 7}' for i, (text, value) in enumerate(zip(texts, values, strict=True))]
    path.write_text("\n".join(["encoding,acc,<b>lat_ms</b>", *rows]), encoding="utf-8")
    return read_labels(path, space=name, target="acc")


def _scored(labels: Labels) -> Scored:
    return score_labels(labels, ScoreSettings(folds=3), make=lambda schema, *_: AdditiveScorer(schema))


def test_the_folder_is_whole_and_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = _scored(_labels(tmp_path, "nb_macro"))
    folder = tmp_path / "scores"
    summary = write_scores(scored, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "features.json", "graphs.json", "labels.csv", "model_explorer.json", "modules.parquet", "predictor",
        "report.html", "summary.json",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    monkeypatch.setattr(
        "genmad.autobuild.score_reading._read_predictor", lambda _, encoding: AdditiveScorer(encoding.schema)
    )
    read = read_scores(folder)
    assert read.target == "acc"
    assert read.best == summary["best_label"] == scored.labels.values.max()
    for mine, other in zip(scored.stages, read.stages, strict=True):
        assert mine.score == pytest.approx(other.score)
    assert read.labelled == scored.labels.data.texts
    before = (folder / "report.html").read_bytes()
    with pytest.raises(OutputError, match="not empty"):
        write_scores(scored, folder)
    (folder / "mine.txt").write_text("kept", encoding="utf-8")
    write_scores(scored, folder, force=True)
    assert (folder / "report.html").read_bytes() == before
    assert (folder / "mine.txt").exists()


def test_nothing_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = _scored(_labels(tmp_path, "nb_macro"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AdditiveScorer, "save_pretrained", full)
    with pytest.raises(OutputError, match="nothing was written"):
        write_scores(scored, tmp_path / "scores")
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_the_report_stands_alone_and_escapes_what_users_named(tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    write_scores(_scored(_labels(tmp_path, "nb201")), folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == page.count("</svg>") > 20
    assert "<script" not in page
    assert "http" not in page
    assert "<b>lat_ms" not in page
    assert "&lt;b&gt;lat_ms" in page


def test_model_explorer_data_names_nodes_of_its_graphs(tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    write_scores(_scored(_labels(tmp_path, "ofa_mbv3")), folder)
    graphs = json.loads((folder / "graphs.json").read_text(encoding="utf-8"))["graphs"]
    data = json.loads((folder / "model_explorer.json").read_text(encoding="utf-8"))
    assert [graph["id"] for graph in graphs] == list(data)
    for graph in graphs:
        names = [node["id"] for node in graph["nodes"]]
        assert list(data[graph["id"]]["results"]) == names
        assert {edge["sourceNodeId"] for node in graph["nodes"] for edge in node["incomingEdges"]} <= set(names)
        assert [stop["stop"] for stop in data[graph["id"]]["gradient"]] == [0, 0.5, 1]


def test_a_space_without_stages_gets_scores_of_rooted_subgraphs(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = tmp_path / "scores"
    summary = write_scores(_scored(_labels(tmp_path, "nb101")), folder)
    rows = pq.read_table(folder / "modules.parquet").to_pylist()
    assert len(rows) == summary["modules"] > 20
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert {row["hop"] for row in rows} >= {0, 1, 2}


def test_scores_in_context_are_means_over_all_members_with_the_module(tmp_path: Path) -> None:
    labels = _labels(tmp_path, "nb_macro")
    scored = score_labels(
        labels, ScoreSettings(folds=2, shift="context"), make=lambda schema, *_: AdditiveScorer(schema)
    )
    encoding, scorer = labels.encoding, AdditiveScorer(labels.encoding.schema)
    assert encoding.modules is not None
    module = encoding.modules.stages[1].text(scored.stages[1].codes[14].tolist())
    held = [text for text in encoding.modules.every_text() if encoding.modules.modules_in(text)[1] == module]
    mean = scorer.predict([encoding.graph(text) for text in held]).mean()
    assert scored.stages[1].score[14] == pytest.approx(mean)
    large = _labels(tmp_path, "ofa_mbv3")
    with pytest.raises(LabelError, match="--shift labels"):
        score_labels(large, ScoreSettings(folds=2, shift="context"))


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScoreFolderError, match="genmad score"):
        read_scores(tmp_path / "none")
    folder = tmp_path / "scores"
    write_scores(_scored(_labels(tmp_path, "nb_macro")), folder)
    summary = (folder / "summary.json").read_text(encoding="utf-8")
    (folder / "summary.json").write_text(summary.replace('"nb_macro"', '"nb201"'), encoding="utf-8")
    with pytest.raises(ScoreFolderError, match="63 rows that are not the modules of nb201"):
        read_scores(folder, with_predictors=False)
    (folder / "summary.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ScoreFolderError, match="summary"):
        read_scores(folder)
