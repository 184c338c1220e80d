"""Modules: their exact numbers, and that they make and unmake architectures."""

import numpy as np
import pytest

from genmad.autobuild.encodings import ENCODED, get_encoding
from genmad.spaces import SpaceError

STAGED = {"ofa_mbv3": [7371] * 5, "ofa_pn": [7371] * 4 + [66_339], "nb201": [5, 25, 125], "nb_macro": [9, 27, 27]}


@pytest.mark.parametrize(("name", "counts"), STAGED.items())
def test_every_stage_has_the_published_number_of_distinct_modules(name: str, counts: list[int]) -> None:
    space = get_encoding(name).modules
    assert space is not None
    assert [stage.num_modules for stage in space.stages] == counts
    for codes, count in zip(space.codes, counts, strict=True):
        assert len(np.unique(codes, axis=0)) == len(codes) == count


def test_the_product_of_stages_is_the_space() -> None:
    for name in ("ofa_mbv3", "ofa_pn", "nb201"):
        encoding = get_encoding(name)
        assert encoding.modules is not None
        assert encoding.space is not None
        assert encoding.modules.size == encoding.space.size
    macro = get_encoding("nb_macro").modules
    assert macro is not None
    assert len(set(macro.every_text())) == macro.size == 6561


@pytest.mark.parametrize("name", STAGED)
def test_modules_make_members_and_are_found_in_them_again(name: str) -> None:
    encoding = get_encoding(name)
    space = encoding.modules
    assert space is not None
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice = [codes[rng.integers(len(codes))].tolist() for codes in space.codes]
        text = space.text(choice)
        assert encoding.problems(text) == []
        for stage, codes, module in zip(space.stages, choice, space.modules_in(text), strict=True):
            assert stage.text(codes) == module
            assert stage.code_of(module) == tuple(codes)


@pytest.mark.parametrize("name", ["ofa_mbv3", "ofa_pn", "nb_macro"])
def test_a_module_alone_is_the_part_of_the_network_that_it_makes(name: str) -> None:
    """Features that forget the stage or the place would score a module as if it stood elsewhere."""
    encoding = get_encoding(name)
    space = encoding.modules
    assert space is not None
    rng = np.random.default_rng(1)
    choice = [codes[rng.integers(len(codes))].tolist() for codes in space.codes]
    whole = encoding.graph(space.text(choice))
    for stage, codes in zip(space.stages, choice, strict=True):
        inside = np.isin(whole.stages, [run.number for run in stage.runs])
        alone = stage.graph(codes)
        assert (alone.features == whole.features[inside]).all()
        assert stage.size_in(whole) == alone.num_nodes
        places = np.flatnonzero(inside)
        inner = whole.edges[np.isin(whole.edges, places).all(1)] - places[0]
        assert (alone.edges == inner).all()


def test_members_of_every_space_are_read_as_graphs() -> None:
    for name in ENCODED:
        encoding = get_encoding(name)
        if encoding.space is None:
            continue
        for word in encoding.space.sample(np.random.default_rng(2), 3).tolist():
            graph = encoding.graph(encoding.space.to_text(tuple(word)))
            assert (graph.features < np.array(encoding.schema.sizes)).all()


def test_equal_networks_of_nas_bench_macro_have_one_key() -> None:
    """An identity behind the first layer of a stage is nothing; the first is a strided convolution."""
    keys = get_encoding("nb_macro").keys(["22201222", "22210222", "22021222"])
    assert keys[0] == keys[1] != keys[2]


def test_an_unknown_space_is_named_with_the_nearest() -> None:
    with pytest.raises(SpaceError, match="nb201"):
        get_encoding("nb2011")
