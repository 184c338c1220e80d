"""Edit scripts as text: numbers and steps come back as they were, and anything else is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmad.ir import GraphError, ShapeError, check_types
from genmad.ir.script import (
    Add,
    At,
    EditScript,
    EditState,
    Number,
    Remove,
    Replace,
    ReplaceUses,
    Rewire,
    SetAttrs,
    Setting,
    Settings,
    Step,
)
from genmad.ops import OPSET
from tests.graphs import gpt2_like

NAMES = st.from_regex(r"[a-z_][a-z0-9_.]{0,8}", fullmatch=True)
VALUES = st.builds(lambda name, i: name if i < 0 else f"{name}:{i}", NAMES, st.integers(-1, 3))
FACTORS = st.integers(1, 4096)
COUNTS = st.integers(0, 10**9)


def numbers() -> st.SearchStrategy[Number]:
    literal = st.builds(lambda n, t, o: Number("int", literal=n, times=t, over=o), COUNTS, FACTORS, FACTORS)
    old = st.builds(lambda t, o: Number("old", times=t, over=o), FACTORS, FACTORS)
    bases = st.sampled_from(["channels", "head_dim", "like"])
    read = st.builds(lambda b, r, t, o: Number(b, ref=r, times=t, over=o), bases, VALUES, FACTORS, FACTORS)
    return st.one_of(literal, old, read)


def settings(at_least: int = 0) -> st.SearchStrategy[Settings]:
    floats = st.floats(allow_nan=False, allow_infinity=False)
    setting: st.SearchStrategy[Setting] = st.one_of(numbers(), st.booleans(), floats, NAMES, st.none())
    return st.dictionaries(NAMES, setting, min_size=at_least, max_size=4).map(lambda d: tuple(d.items()))


def steps() -> st.SearchStrategy[Step]:
    values = st.lists(VALUES, max_size=3).map(tuple)
    optional = VALUES | st.just("")
    slots = st.integers(0, 11)
    return st.one_of(
        st.builds(At, values),
        st.builds(SetAttrs, NAMES, settings(at_least=1)),
        st.builds(Replace, NAMES, NAMES, settings()),
        st.builds(Add, NAMES, NAMES, values, settings(), optional, st.sampled_from(["copy", "new"])),
        st.builds(Rewire, NAMES | st.just(""), slots, optional),
        st.builds(ReplaceUses, VALUES, VALUES),
        st.builds(Remove, NAMES),
    )


@given(numbers())
def test_a_number_is_parsed_back_from_its_text(number: Number) -> None:
    assert Number.parse(str(number)) == number


@given(st.text(alphabet="old channelsik(_)0123456789*/:-", max_size=14))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    try:
        number = Number.parse(text)
    except ShapeError:
        return
    assert Number.parse(str(number)) == number


@pytest.mark.parametrize("text", ["", "8/0", "old*", "channels()", "-3", "3.5", "8 ", "like(x", "9" * 5000])
def test_what_is_no_number_is_refused(text: str) -> None:
    """A division by zero once passed here and stopped the run with a traceback."""
    with pytest.raises(ShapeError, match="a number such as"):
        Number.parse(text)


@given(st.lists(steps(), max_size=5))
def test_a_script_survives_json(made: list[Step]) -> None:
    script = EditScript(steps=tuple(made))
    assert EditScript.from_json(json.loads(json.dumps(script.to_json()))) == script


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["number", "slot", "x"]), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(["step", "node", "settings", "calls", "inputs", "op", "slot", "value", "odd"])
KINDS = st.sampled_from(["at", "set", "replace", "add", "rewire", "replace_uses", "remove", "odd"]) | JSON


@given(JSON | st.lists(st.dictionaries(FIELDS, JSON).flatmap(lambda d: KINDS.map(lambda k: d | {"step": k}))))
def test_any_json_is_a_script_or_refused(data: Any) -> None:
    try:
        script = EditScript.from_json(data)
    except GraphError:
        return
    assert len(script.steps) == len(data)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (SetAttrs("ln_9", (("eps", 0.1),)), "no such node"),
        (SetAttrs("ln_1", (("epsilon", 0.1),)), "attribute 'epsilon'"),
        (Replace("ln_1", "LayerNorms"), "an op exchanged for an op"),
        (Add("ln_1", "Relu", ("ln_2",)), "a name that is taken"),
        (Add("new", "Relu", ("ln_9",)), "values of the block"),
        (Rewire("ln_2", 0, "ln_9"), "no such value"),
        (Rewire("ln_1", 0, "mlp.c_fc"), "a cycle"),
        (SetAttrs("attn.attention", (("num_heads", Number.of(7)),)), "7"),
        (At(("transformer.h.9",)), "no call at transformer.h.9"),
    ],
)
def test_a_step_that_does_not_fit_is_refused_by_name(step: Step, message: str) -> None:
    state = EditState.start(gpt2_like(), OPSET).step(At(("transformer.h.1",)))
    with pytest.raises(GraphError, match=message):
        state.step(step)


def test_a_wider_output_of_one_layer_is_typed_through_its_callers() -> None:
    """The block that one call runs is copied, and the whole graph typed anew when its output changes."""
    graph = gpt2_like(layers=2)
    wide = Add("wide", "Linear", ("mlp.c_proj",), (("out_features", Number("channels", ref="ln_1", times=2)),))
    script = EditScript(steps=(At(("transformer.h.1",)), wide, Rewire("", 0, "wide")))
    edited = script.run(graph, OPSET).graph
    check_types(edited, OPSET)
    assert str(edited.main.types["transformer.h.0"]) == "float32[batch,seq,32]"
    assert str(edited.main.types["transformer.h.1"]) == "float32[batch,seq,64]"
    assert graph == gpt2_like(layers=2)
