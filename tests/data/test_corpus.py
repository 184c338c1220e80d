"""The stored form: what is written is read, older corpora are read too, and the card says what is there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

import genmad.data.card
from genmad.data.card import percentile, summarise, write_card
from genmad.data.corpus import ArchRecord, CorpusError, load, save
from genmad.ir import canonical_hash, canonicalize, to_json
from tests.graphs import gpt2_like


def record(layers: int, family: str = "a", split: str = "train", **more: object) -> ArchRecord:
    graph = canonicalize(gpt2_like(layers=layers))
    made = ArchRecord(
        family=family, variant=f"v{layers}", split=split, hash=canonical_hash(graph), graph=graph,
        num_nodes=graph.num_nodes,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = [
        record(1, text="a text", modality="text", num_params=7, num_macs=2**40, labels='{"accuracy": 0.5}'),
        record(2, "b", "heldout", source="timm", num_params=None),
    ]
    save(records, [], tmp_path / "c")
    assert load(tmp_path / "c") == records
    assert load(tmp_path / "c", "heldout") == records[1:]
    assert load(tmp_path / "c", sources=("timm",)) == records[1:]
    assert load(tmp_path / "c", max_nodes=records[0].num_nodes) == records[:1]


def test_a_corpus_of_five_columns_is_still_read(tmp_path: Path) -> None:
    """As training wrote it before there were more."""
    graph = gpt2_like(layers=1)
    row = {"family": "a", "variant": "v", "split": "train", "hash": "h", "graph": json.dumps(to_json(graph))}
    Dataset.from_list([row]).save_to_disk(str(tmp_path / "old"))
    (found,) = load(tmp_path / "old", "train")
    assert (found.graph, found.source, found.num_params) == (graph, "transformers", None)
    assert summarise(tmp_path / "old").graphs == 1


def test_what_is_no_corpus_is_said(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no such folder.*genmad zoo build"):
        load(tmp_path / "none")
    with pytest.raises(CorpusError, match="without dataset_info"):
        load(tmp_path)
    Dataset.from_list([{"text": "a"}]).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(CorpusError, match="no column family"):
        load(tmp_path / "other")
    save([record(1)], [], tmp_path / "cut")
    data = next((tmp_path / "cut").glob("*.arrow"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(CorpusError, match="genmad zoo build"):
        load(tmp_path / "cut")


def test_the_card_counts_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [10, 20, 3000]
    records = [record(n + 1, f"f{n % 2}", num_params=sizes[n], num_primitive=n, modality="text") for n in range(3)]
    save(records, [], tmp_path / "c")
    found = write_card(tmp_path / "c")
    assert found.splits == {"train": {"graphs": 3, "families": 2}}
    assert found.lifted_fraction == round(1 - 3 / sum(r.num_nodes for r in records), 5)
    card = (tmp_path / "c" / "README.md").read_text()
    assert "3 distinct graphs of 2 families" in card
    if genmad.data.card.can_draw():
        assert (tmp_path / "c" / "parameters.png").read_bytes()[:4] == b"\x89PNG"
        assert "(parameters.png)" in card
    monkeypatch.setattr(genmad.data.card, "can_draw", lambda: False)
    write_card(tmp_path / "c")
    assert "#### " in (tmp_path / "c" / "README.md").read_text()


def test_percentiles_are_values_of_the_sample() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile([5], 0.5) == 5
