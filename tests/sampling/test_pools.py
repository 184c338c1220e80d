"""Pools: distinct members within conditions, the same bytes again, taken up after interruptions, checked when read."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genmad.model.choice_net import ChoiceNet
from genmad.sampling.pools import Conditions, Drawn, Law, NetLaw, PoolSampler, UniformLaw, conditions_for, load_law
from genmad.sampling.pools.laws import GeneratorError
from genmad.sampling.pools.pool_file import (
    COLUMNS,
    Extras,
    Parts,
    PoolError,
    pool_problems,
    read_pool,
    table_of,
    write_pool,
)
from genmad.spaces import SPACES, Space, SpaceError, get_space
from genmad.spaces.split import in_training

NB201 = get_space("nb201")


def laws(space: Space) -> list[Law]:
    return [UniformLaw(), load_law(space)]


def random_net(space: Space, seed: int = 0, conditions: int = 0, hidden: int = 16) -> ChoiceNet:
    rng = np.random.default_rng(seed)
    widths = tuple(len(step.choices) for step in space.steps)
    shapes = {
        "embed": (sum(widths), hidden), "start": (1 + conditions, hidden), "step": (len(widths), hidden),
        "hidden": (2, hidden, hidden), "bias": (2, hidden), "out": (sum(widths), hidden), "out_bias": (sum(widths),),
    }  # fmt: skip
    tensors = {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    return ChoiceNet(widths=widths, about={"space": space.name, "share": 0.5}, **tensors)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_what_a_law_writes_is_a_member_by_the_rules_and_none_repeats(name: str) -> None:
    """Raw draws, also of a network with random weights: nothing is rejected, nothing repaired."""
    space = get_space(name)
    for law in (*laws(space), NetLaw(net=random_net(space))):
        raw, _ = PoolSampler(space=space, law=law).independent(200)
        assert all(space.contains(space.to_text(tuple(word))) for word in raw.tolist())
        pool = PoolSampler(space=space, law=law).draw(300)
        assert len(set(space.keys(pool.words))) == 300


def test_shipped_generators_are_small_and_say_what_they_were_trained_on() -> None:
    import genmad.checkpoints

    folders = [f for root in genmad.checkpoints.__path__ for f in Path(root).glob("pools-*")]
    assert {"pools-nb101", "pools-nb201", "pools-enas", "pools-darts"} <= {f.name for f in folders}
    for folder in folders:
        assert sum(f.stat().st_size for f in folder.iterdir()) < 300_000
        assert {"space", "split", "share", "seed"} <= set(json.loads((folder / "config.json").read_text())["about"])


def test_a_law_draws_what_it_says() -> None:
    """The log-likelihoods of all 15,625 words sum to one, and draws follow them: chi-square over the 20 likeliest words
    and the rest, 20 degrees of freedom, above 45.3 once in a thousand seeds."""
    sampler = PoolSampler(space=NB201, law=load_law(NB201))
    words = NB201.grammar().words()
    chances = np.exp(sampler.log_likelihood(words))
    assert abs(chances.sum() - 1) < 1e-4
    drawn, said = sampler.independent(20_000)
    assert np.allclose(said, sampler.log_likelihood(drawn), atol=1e-4)
    top = np.argsort(-chances)[:20]
    counts = Counter(map(tuple, drawn.tolist()))
    seen = np.array([counts[tuple(words[i].tolist())] for i in top], np.float64)
    expected = np.append(chances[top], 1 - chances[top].sum()) * len(drawn)
    assert ((np.append(seen, len(drawn) - seen.sum()) - expected) ** 2 / expected).sum() < 45.3


def test_budgets_and_ops_are_kept_by_every_law() -> None:
    conditions = conditions_for(
        NB201, limits={"params": 600_000, "depth": 2}, ops=frozenset({"nor_conv_3x3", "none", "skip_connect"})
    )
    for law in laws(NB201):
        words, _ = PoolSampler(space=NB201, law=law, conditions=conditions).independent(500)
        costs = NB201.costs(words)
        assert costs[:, 0].max() <= 600_000
        assert costs[:, 2].max() <= 2
        assert set(words.ravel().tolist()) <= {0, 1, 3}


def test_a_pool_of_everything_holds_every_class_once_and_says_so() -> None:
    pool = PoolSampler(space=NB201, law=load_law(NB201)).draw(7_000)
    assert pool.exhausted
    assert len(pool.words) == len(set(NB201.keys(pool.words))) == 6_466
    small = conditions_for(NB201, limits={"params": 101_306})
    found = PoolSampler(space=NB201, law=load_law(NB201), conditions=small).draw(1000)
    every = NB201.grammar(("params",)).words((101_306,))
    assert found.exhausted
    assert set(NB201.keys(found.words)) == set(NB201.keys(every))


def test_a_longer_pool_begins_with_the_shorter() -> None:
    sampler = PoolSampler(space=NB201, law=load_law(NB201), seed=3)
    long, short = sampler.draw(3000), sampler.draw(500)
    assert (long.words[:500] == short.words).all()
    assert not (PoolSampler(space=NB201, law=load_law(NB201), seed=4).draw(500).words == short.words).all()


def test_workers_change_nothing(tmp_path: Path) -> None:
    """The same file byte for byte from one process and from two, over several rounds and the listing of the rest;
    and processes there were: this one drew no batch of its own."""
    asked = conditions_for(NB201, limits={"params": 400_000})
    alone = PoolSampler(space=NB201, law=load_law(NB201), conditions=asked, seed=3)
    for name, sampler in (("a", alone), ("b", replace(alone, workers=2))):
        with pytest.MonkeyPatch.context() as patch:
            if name == "b":
                patch.setattr(PoolSampler, "_batch", None)
            drawn = sampler.draw(100_000)
        assert drawn.exhausted
        assert drawn.num_draws >= 3 * 2048
        write_pool(table_of(NB201, drawn, Extras(provenance={})), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_law_that_hardly_varies_is_flattened_where_members_are_too_many_to_list() -> None:
    """It once said that a space of 10^9 members was exhausted after five."""
    enas = get_space("enas")
    net = random_net(enas)
    stiff = replace(net, out=net.out * 60)
    pool = PoolSampler(space=enas, law=NetLaw(net=stiff)).draw(400)
    assert len(set(enas.keys(pool.words))) == 400
    assert not pool.exhausted


def test_temperature_sharpens() -> None:
    law = load_law(NB201)
    mean = {
        t: PoolSampler(space=NB201, law=law, conditions=Conditions(temperature=t)).independent(2000)[1].mean()
        for t in (0.5, 1.0, 2.0)
    }
    assert mean[0.5] > mean[1.0] > mean[2.0]


def test_novel_leaves_out_the_training_split() -> None:
    sampler = PoolSampler(space=NB201, law=load_law(NB201), conditions=Conditions(novel=True), train_share=0.5)
    assert not in_training(NB201, sampler.draw(1000).words, 0.5).any()


def test_guidance_of_one_is_the_conditional_law_and_zero_the_free_one() -> None:
    net = random_net(NB201, conditions=2)
    words = NB201.sample(np.random.default_rng(0), 50)

    def score(law: Law) -> np.ndarray:
        return PoolSampler(space=NB201, law=law).log_likelihood(words)

    free, own = score(NetLaw(net=net)), score(NetLaw(net=net, condition=2))
    assert not np.allclose(free, own)
    assert np.allclose(score(NetLaw(net=net, condition=2, guidance=0.0)), free, atol=1e-4)
    assert np.allclose(score(NetLaw(net=net, condition=2, guidance=1.0 + 1e-7)), own, atol=1e-3)


def test_impossible_conditions_say_the_smallest_member_and_the_nearest_op() -> None:
    with pytest.raises(SpaceError, match="at least the smallest of NAS-Bench-201: 73,306 params"):
        conditions_for(NB201, limits={"params": 1000})
    with pytest.raises(SpaceError, match="--ops nor_conv_3x3"):
        conditions_for(NB201, ops=frozenset({"norconv3x3"}))
    with pytest.raises(SpaceError, match="above 0"):
        conditions_for(NB201, temperature=0.0)


def test_networks_are_saved_and_refused_for_other_choices(tmp_path: Path) -> None:
    net = random_net(NB201)
    net.save(tmp_path / "net")
    again = ChoiceNet.load(tmp_path / "net", net.widths)
    assert np.allclose(again.embed, net.embed, atol=1e-2)
    with pytest.raises(GeneratorError, match="of other choices"):
        load_law(get_space("enas"), tmp_path / "net")
    with pytest.raises(GeneratorError, match=r"no model\.safetensors"):
        load_law(NB201, tmp_path)


def write(path: Path, n: int = 40) -> Drawn:
    drawn = PoolSampler(space=NB201, law=load_law(NB201)).draw(n)
    write_pool(table_of(NB201, drawn, Extras(train_share=0.5, provenance={"seed": 0})), path)
    return drawn


def test_pools_are_the_same_byte_for_byte_and_pass_their_check(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    rows = read_pool(tmp_path / "a.parquet")
    assert tuple(rows[0]) == COLUMNS
    assert list(pool_problems(rows)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "|none~0|"}, "no member of nb201: 1 nodes, not 3"),
        ({"params": 1}, "params 1, but the member's are"),
        ({"canonical_hash": "00"}, "canonical_hash '00'"),
        ({"space": "nb999"}, "space 'nb999'"),
        ({"encoding": None}, "the encoding is empty"),
    ],
)
def test_a_foreign_row_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write(tmp_path / "a.parquet")
    rows = read_pool(tmp_path / "a.parquet")
    rows[7] |= change
    found = list(pool_problems(rows))
    assert any(text.startswith("row 7: ") and message in text for text in found)


def test_repeats_and_isomorphic_twins_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    rows = read_pool(tmp_path / "a.parquet")[:2]
    twins = [
        "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|skip_connect~2|",
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|",
    ]
    bare = [{"space": "nb201", "encoding": text} for text in twins]
    assert list(pool_problems(bare)) == ["row 1: the same member as row 0"]
    assert list(pool_problems([rows[0], rows[0]])) == ["row 1: the same member as row 0"]


def test_files_that_are_no_pools_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(PoolError, match="a pool that genmad generate wrote"):
        read_pool(tmp_path / "x.parquet")
    with pytest.raises(PoolError):
        read_pool(tmp_path / "missing.parquet")


def test_an_interrupted_run_is_taken_up_and_ends_the_same(tmp_path: Path) -> None:
    sampler = PoolSampler(space=NB201, law=load_law(NB201), seed=1)
    whole = list(sampler.rounds(3000))
    parts = Parts(folder=tmp_path / "p.parts", request={"seed": 1})
    parts.save(0, whole[0])
    again = Parts(folder=tmp_path / "p.parts", request={"seed": 1}).load()
    rest = list(sampler.rounds(3000, again))
    assert len(again) == 1
    assert (
        np.concatenate([d.words for d in (*again, *rest)]).tolist() == np.concatenate([d.words for d in whole]).tolist()
    )
    assert Parts(folder=tmp_path / "p.parts", request={"seed": 2}).load() == []
    assert not (tmp_path / "p.parts").exists()


def test_drawing_loads_no_torch() -> None:
    """A thousand members take half a second; loading torch takes several."""
    import subprocess
    import sys

    code = (
        "import sys; from genmad.sampling.pools import PoolSampler, load_law; from genmad.spaces import get_space\n"
        "space = get_space('nb201'); PoolSampler(space=space, law=load_law(space)).draw(100)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
