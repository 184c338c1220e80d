"""Hypothesis strategies: valid graphs with blocks, calls, ties, several outputs, symbolic and awkward attributes."""

import math
from collections.abc import Callable

from hypothesis import strategies as st

from genmad.ir.build import BlockBuilder, GraphBuilder
from genmad.ir.graph import Block, Graph
from genmad.ir.types import SymDim
from genmad.ops import OPSET

WIDTH = 8
TYPE = f"float32[batch,seq,{WIDTH}]"
FLOATS = st.sampled_from([0.1, 1.0, -0.0, 1e-30, 2.5e17, math.inf, -math.inf]) | st.floats(-4, 4)

Draw = Callable[[st.SearchStrategy], object]


def _unary(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    op = draw(st.sampled_from(["Relu", "Tanh", "Silu", "Identity"]))
    return block.add(op, draw(st.sampled_from(values)), scope=scope)


def _gelu(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    approximate = draw(st.sampled_from(["none", "tanh"]))
    return block.add("Gelu", draw(st.sampled_from(values)), scope=scope, approximate=approximate)


def _scalar(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    return block.add("MulScalar", draw(st.sampled_from(values)), scope=scope, value=draw(FLOATS))


def _clip(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    low = draw(st.none() | st.sampled_from([0.0, -1.0]))
    return block.add("Clip", draw(st.sampled_from(values)), scope=scope, min=low, max=6.0)


def _linear(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    name = block.fresh(f"{scope}.fc" if scope else "fc")
    x = draw(st.sampled_from(values))
    return block.add("Linear", x, name=name, scope=scope, out_features=WIDTH, bias=draw(st.booleans()))


def _tied(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    names = {"weight": "tied.weight"}
    return block.add("Linear", draw(st.sampled_from(values)), scope=scope, out_features=WIDTH, bias=False, params=names)


def _norm(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    name = block.fresh(f"{scope}.norm" if scope else "norm")
    return block.add("LayerNorm", draw(st.sampled_from(values)), name=name, scope=scope, eps=draw(st.floats(1e-12, 1)))


def _binary(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
    return block.add(draw(st.sampled_from(["Add", "Mul", "Sub"])), a, b, scope=scope)


def _split(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    left = draw(st.integers(1, WIDTH - 1))
    x = draw(st.sampled_from(values))
    first, second = block.add("Split", x, scope=scope, axis=-1, sizes=(left, WIDTH - left))
    return block.add("Concat", second, first, scope=scope, axis=-1)


def _reshape(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    batch, seq = SymDim.symbol("batch"), SymDim.symbol("seq")
    wide = block.add("Reshape", draw(st.sampled_from(values)), scope=scope, shape=(batch * seq, WIDTH))
    return block.add("Reshape", wide, scope=scope, shape=(batch, seq, -1))


def _attention(draw: Draw, block: BlockBuilder, values: list[str], scope: str) -> str:
    q, k, v = (draw(st.sampled_from(values)) for _ in range(3))
    heads, window = draw(st.sampled_from([1, 2, 4])), draw(st.none() | st.integers(1, 3))
    return block.add("Attention", q, k, v, scope=scope, num_heads=heads, causal=draw(st.booleans()), window=window)


STEPS = (_unary, _gelu, _scalar, _clip, _linear, _tied, _norm, _binary, _split, _reshape, _attention)


def _finish(block: BlockBuilder, values: list[str], scope: str) -> Block:
    """Adds up every value that nothing reads, so that no node dangles."""
    read = {v for node in block.nodes for v in node.inputs}
    loose = [v for v in values if v not in read]
    total = loose[0]
    for value in loose[1:]:
        total = block.add("Add", total, value, scope=scope)
    return block.finish(total)


@st.composite
def graphs(draw: Draw, max_nodes: int = 8, max_blocks: int = 2, max_calls: int = 4) -> Graph:
    """A valid graph over `OPSET`: [batch, seq, 8] in and out, leaf blocks called as `layers.0`, `layers.1` ..."""
    builder = GraphBuilder(OPSET)
    kinds = draw(st.integers(0, max_blocks))
    for k in range(kinds):
        block = builder.block(f"Layer{k}", x=TYPE)
        values = ["x"]
        for _ in range(draw(st.integers(2, max(2, max_nodes // 2)))):
            values.append(draw(st.sampled_from(STEPS))(draw, block, values, draw(st.sampled_from(["", "attn"]))))
        _finish(block, values, "")
    main = builder.block("net", x=TYPE)
    values = [main.add("Relu", "x", name="stem")]
    calls = sorted(draw(st.lists(st.integers(0, max_nodes), max_size=max_calls))) if kinds else []
    for at in range(draw(st.integers(1, max_nodes))):
        while calls and calls[0] <= at:
            calls.pop(0)
            name = main.fresh(f"layers.{sum(node.is_call for node in main.nodes)}")
            callee = f"@Layer{draw(st.integers(0, kinds - 1))}"
            values.append(main.add(callee, draw(st.sampled_from(values)), name=name, scope=name))
        values.append(draw(st.sampled_from(STEPS))(draw, main, values, draw(st.sampled_from(["", "head"]))))
    return builder.build(_finish(main, values, ""))
