"""Every space: exact counts, round trips, costs, rules, neighbours; members train and run."""

import re
from itertools import product

import numpy as np
import pytest
import torch

from genmad.lowering.to_torch import to_torch
from genmad.ops import OPSET
from genmad.spaces import METRICS, SPACES, Space, SpaceError, Word, get_space
from genmad.validate import Level, validate

CELLS = ("nb101", "nb201", "darts", "enas")


def draw(space: Space, n: int, seed: int = 0) -> list[Word]:
    return [tuple(row) for row in space.sample(np.random.default_rng(seed), n).tolist()]


def table(*words: Word) -> np.ndarray:
    return np.array(words, np.int16)


@pytest.fixture(params=sorted(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    return get_space(request.param)


def test_text_round_trips_and_is_a_member(space: Space) -> None:
    for word in draw(space, 50):
        assert space.from_text(space.to_text(word)) == word
        assert space.problems(space.to_text(word)) == []


def test_graphs_round_trip_and_cost_what_the_grammar_says(space: Space) -> None:
    words = draw(space, 3)
    for word, costs in zip(words, space.costs(table(*words)).tolist(), strict=True):
        assert space.from_graph(space.to_graph(word)) == word
        assert space.graph_costs(word) == tuple(costs[:2])


def test_costs_are_those_that_the_grammar_bounds(space: Space) -> None:
    words = space.sample(np.random.default_rng(0), 300)
    found = space.costs(words)
    for m, metric in enumerate(METRICS):
        assert (space.grammar((metric,)).costs(words)[:, 0] == found[:, m]).all()


def test_budgets_are_kept_while_writing(space: Space) -> None:
    costs = space.costs(space.sample(np.random.default_rng(0), 200))
    grammar = space.grammar(("params", "macs"))
    limits = tuple(int(np.quantile(costs[:, m], 0.2)) for m in (0, 1))
    words = grammar.sample(np.random.default_rng(1), 200, limits)
    assert (space.costs(words)[:, :2] <= limits).all()


def test_neighbours_are_other_members(space: Space) -> None:
    (word,) = draw(space, 1)
    near = list(space.neighbours(word))
    assert word not in near
    assert len(set(near)) == len(near) > 0
    assert all(space.contains(space.to_text(other)) for other in near)


def test_keys_and_fingerprints_tell_the_same_words_apart(space: Space) -> None:
    words = space.sample(np.random.default_rng(0), 2000)
    pairs = set(zip(space.keys(words), space.fingerprints(words).tolist(), strict=True))
    assert len(pairs) == len({key for key, _ in pairs}) == len({number for _, number in pairs})


def test_canonical_words_are_of_the_same_class_and_equal_within_it(space: Space) -> None:
    words = space.sample(np.random.default_rng(0), 500)
    chosen = space.canonical(words)
    assert space.keys(chosen) == space.keys(words)
    assert (space.canonical(chosen) == chosen).all()


def test_other_graphs_are_refused(space: Space) -> None:
    other = get_space("enas" if space.name != "enas" else "nb201")
    graph = other.to_graph(draw(other, 1)[0])
    with pytest.raises(SpaceError, match="expected a graph of the space"):
        space.from_graph(graph)


@pytest.mark.parametrize("name", CELLS)
def test_a_member_runs_in_onnx_and_trains(name: str) -> None:
    space = get_space(name)
    graph = space.to_graph(draw(space, 1, seed=3)[0])
    # DARTS networks of 20 cells take long to run twice.
    assert validate(graph, OPSET, Level.ONNX if name == "darts" else Level.EXECUTABLE).passed
    model = to_torch(graph).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    image, label = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(model(image), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_sizes_are_the_published_ones() -> None:
    assert get_space("nb201").grammar().num_words == get_space("nb201").size == 15_625
    assert get_space("darts").grammar().num_words == get_space("darts").size == 1_037_664_180**2
    assert get_space("enas").grammar().num_words == get_space("enas").size == 6**6 * 2**15


def test_nb201_has_6466_classes() -> None:
    space = get_space("nb201")
    assert len(set(space.keys(space.grammar().words()))) == space.num_classes == 6_466


def test_nb101_cells_of_up_to_four_vertices_are_counted_by_brute_force() -> None:
    """All matrices and operations, judged and hashed by the rules alone, against the grammar's words."""
    from genmad.spaces import nb101_rules as rules

    space = get_space("nb101")
    found = set()
    for size in (2, 3, 4):
        for bits in product("01", repeat=size * (size - 1) // 2):
            for ops in product(rules.OPERATIONS, repeat=size - 2):
                text = " ".join(["".join(bits), *ops])
                if not rules.problems(text):
                    found.add(rules.cell_hash(text))
    small = space.grammar().restrict({0: frozenset({0, 1, 2})})
    assert set(space.keys(small.words())) == found


def test_nb101_has_423624_classes() -> None:
    space = get_space("nb101")
    words = space.grammar().words()
    parts = [space.fingerprints(words[i : i + 50_000]) for i in range(0, len(words), 50_000)]
    assert len(words) == 1_293_208
    assert len(np.unique(np.concatenate(parts))) == space.size == 423_624


def test_darts_classes_are_counted_as_by_listing_them() -> None:
    """With two operations there are few enough words to list: 180 wirings times 2^8."""
    from genmad.spaces.darts import PAIRS, count_cells, least_code

    ranges = [r for node in PAIRS for r in (range(len(PAIRS[node])), range(2), range(2))]
    words = np.array(list(product(*ranges)), np.int16)
    assert len(words) == 180 * 2**8
    assert len(np.unique(least_code(words))) == count_cells(2)


def test_rules_name_what_is_wrong() -> None:
    cases = [
        ("nb201", "|none~0|+|none~0|none~1|", "2 nodes, not 3"),
        ("nb201", "|none~0|+|none~0|none~0|+|none~0|none~1|none~2|", "edge 1 starts at '0'"),
        ("nb101", "011 conv7x7", "unknown operation 'conv7x7'"),
        ("nb101", "010 conv3x3-bn-relu", None),
        ("nb101", "001 maxpool3x3", "no path from input to output"),
        ("nb101", "111111111111111111111" + " maxpool3x3" * 5, "21 edges, more than 9"),
        ("enas", "conv3x3 conv3x3:1 conv3x3:11 conv3x3:111 conv3x3:1111 conv3x3:111", "layer 6: skips '111'"),
        ("darts", "Genotype(normal=[], normal_concat=range(2, 6), reduce=[], reduce_concat=range(2, 6))", "0 edges"),
    ]
    for name, text, message in cases:
        if message is None:
            assert get_space(name).problems(text) == []
            continue
        with pytest.raises(SpaceError, match=re.escape(message)):
            get_space(name).from_text(text)


def test_nb101_cells_are_pruned_when_read() -> None:
    """The vertex that leads nowhere is dropped, as in the benchmark."""
    space = get_space("nb101")
    loose = space.from_text("110001 conv3x3-bn-relu maxpool3x3")
    assert space.to_text(loose) == "101 maxpool3x3"


def test_nb101_neighbours_are_one_edit_away() -> None:
    space = get_space("nb101")
    word = space.from_text("101 conv3x3-bn-relu")
    texts = {space.to_text(other) for other in space.neighbours(word)}
    assert texts == {"101 conv1x1-bn-relu", "101 maxpool3x3", "111 conv3x3-bn-relu"}


def test_unknown_spaces_are_answered_with_the_nearest_name() -> None:
    with pytest.raises(SpaceError, match="--space nb201"):
        get_space("nb202")
    assert get_space("NAS-Bench-201") is get_space("nb201")


@pytest.mark.parametrize(("word", "depth"), [((3, 0, 3, 0, 0, 3), 3), ((1, 1, 1, 1, 1, 1), 0), ((0, 4, 3, 1, 0, 0), 0)])
def test_nb201_depth_is_the_longest_path_that_none_does_not_cut(word: Word, depth: int) -> None:
    assert get_space("nb201").costs(table(word))[0, 2] == depth
