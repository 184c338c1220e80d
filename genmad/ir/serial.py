"""Graphs as JSON: lossless, versioned, strict on reading.

    {"format": "genmad.graph", "version": 1, "main": "gpt2", "blocks": [{"name": "GPT2Block",
     "inputs": [["hidden_states", "float32[batch,seq,768]"]],
     "nodes": [{"name": "ln_1", "op": "LayerNorm", "inputs": ["hidden_states"], "types": ["float32[batch,seq,768]"],
                "attrs": {"eps": 1e-05}, "scope": "ln_1", "params": {"weight": "ln_1.weight"}}],
     "outputs": ["ln_1"]}]}

Called blocks come before their callers, the main block last. Attribute values are JSON scalars and flat lists; a
symbolic dimension is {"dim": "2*seq"} and a float that JSON lacks is {"float": "inf"}.
"""

import math
from collections.abc import Mapping
from typing import Any

from genmad.ir.build import OpSet
from genmad.ir.check import check_types
from genmad.ir.diagnostics import Diagnostic, GraphError, ShapeError
from genmad.ir.graph import Block, Graph, Node, Value
from genmad.ir.rewrite import check_size
from genmad.ir.types import SymDim, TensorType, parse_dim

FORMAT = "genmad.graph"
VERSION = 1
MAX_NODES = 200_000
MAX_BLOCKS = 10_000
MAX_LIST = 65_536
MAX_TEXT = 1_000_000
MAX_NAME = 1_000

_NODE_KEYS = ("name", "op", "inputs", "types", "attrs", "scope", "params")
_BLOCK_KEYS = ("name", "inputs", "nodes", "outputs")
_GRAPH_KEYS = ("format", "version", "main", "blocks")


def to_json(graph: Graph) -> dict[str, Any]:
    """The graph as plain dicts and lists, ready for `json.dumps(..., allow_nan=False)`."""
    blocks = [block_to_json(block) for block in graph.all_blocks]
    return {"format": FORMAT, "version": VERSION, "main": graph.main.name, "blocks": blocks}


def from_json(data: Any, opset: OpSet | None = None) -> Graph:
    """The inverse of `to_json`; given an op set, the stored types are checked against its shape rules.

    Raises `GraphError` saying where in the data the problem is.
    """
    expect_object(data, _GRAPH_KEYS, "graph")
    if data["format"] != FORMAT or data["version"] != VERSION:
        got = f"format {data['format']!r}, version {data['version']!r}"
        raise error("graph", got, f"{FORMAT!r}, version {VERSION}", "read it with the GenMAD version that wrote it")
    entries = expect_list(data["blocks"], "graph.blocks", MAX_BLOCKS)
    total = sum(len(e["nodes"]) for e in entries if isinstance(e, dict) and isinstance(e.get("nodes"), list))
    if total > MAX_NODES:
        raise error("graph", f"{total} nodes", f"at most {MAX_NODES}")
    blocks = [block_from_json(entry, f"blocks[{i}]") for i, entry in enumerate(entries)]
    if not blocks or blocks[-1].name != data["main"]:
        raise error("graph.main", f"{data['main']!r}", "the name of the last block")
    graph = Graph(main=blocks[-1], blocks=tuple(blocks[:-1]))
    check_size(graph)
    if opset is not None:
        check_types(graph, opset)
    return graph


def block_to_json(block: Block) -> dict[str, Any]:
    return {
        "name": block.name,
        "inputs": [value_to_json(v) for v in block.inputs],
        "nodes": [node_to_json(node) for node in block.nodes],
        "outputs": list(block.outputs),
    }


def block_from_json(data: Any, where: str) -> Block:
    """Raises `GraphError`."""
    expect_object(data, _BLOCK_KEYS, where)
    name = expect_text(data["name"], f"{where}.name")
    where = f'{where} "{name}"'
    inputs = [
        value_from_json(v, f"{where}.inputs[{i}]") for i, v in enumerate(expect_list(data["inputs"], f"{where}.inputs"))
    ]
    entries = expect_list(data["nodes"], f"{where}.nodes", MAX_NODES)
    nodes = tuple(node_from_json(entry, f"{where}.nodes[{i}]") for i, entry in enumerate(entries))
    return Block(
        name=name, inputs=tuple(inputs), nodes=nodes, outputs=expect_texts(data["outputs"], f"{where}.outputs")
    )


def value_to_json(value: Value) -> list[str]:
    return [value.name, str(value.type)]


def value_from_json(data: Any, where: str) -> Value:
    """Raises `GraphError`."""
    pair = expect_texts(data, where)
    if len(pair) != 2:
        raise error(where, f"{len(pair)} items", "a pair of a name and a type")
    return Value(pair[0], _type(pair[1], where))


def node_to_json(node: Node) -> dict[str, Any]:
    """Empty fields are left out."""
    data: dict[str, Any] = {"name": node.name, "op": node.op, "inputs": list(node.inputs)}
    data["types"] = [str(t) for t in node.types]
    if node.attrs:
        data["attrs"] = {name: attr_to_json(value) for name, value in node.attrs}
    if node.scope:
        data["scope"] = node.scope
    if node.params:
        data["params"] = dict(node.params)
    return data


def node_from_json(data: Any, where: str) -> Node:
    """Raises `GraphError`."""
    expect_object(data, _NODE_KEYS, where, required=("name", "op", "inputs", "types"))
    name = expect_text(data["name"], f"{where}.name")
    where = f'{where} "{name}"'
    types = expect_texts(data["types"], f"{where}.types")
    attrs = _mapping(data.get("attrs", {}), f"{where}.attrs")
    params = _mapping(data.get("params", {}), f"{where}.params")
    return Node(
        name=name,
        op=expect_text(data["op"], f"{where}.op"),
        inputs=expect_texts(data["inputs"], f"{where}.inputs"),
        types=tuple(_type(t, f"{where}.types[{i}]") for i, t in enumerate(types)),
        attrs=tuple((k, attr_from_json(v, f"{where}.attrs.{k}")) for k, v in attrs.items()),
        scope=expect_text(data.get("scope", ""), f"{where}.scope"),
        params=tuple((k, expect_text(v, f"{where}.params.{k}")) for k, v in params.items()),
    )


def attr_to_json(value: Any) -> Any:
    """An attribute value; tuples become lists."""
    if isinstance(value, tuple):
        return [attr_to_json(item) for item in value]
    if isinstance(value, SymDim):
        return {"dim": str(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def attr_from_json(data: Any, where: str) -> Any:
    """The inverse of `attr_to_json`. Raises `GraphError`."""
    if isinstance(data, list):
        return tuple(_scalar(item, where) for item in expect_list(data, where))
    return _scalar(data, where)


def _scalar(data: Any, where: str) -> Any:
    if isinstance(data, str) and len(data) > MAX_TEXT:
        raise error(where, f"{len(data)} characters", f"at most {MAX_TEXT}")
    if data is None or isinstance(data, (bool, int, str)):
        return data
    if isinstance(data, float) and math.isfinite(data):
        return data
    if isinstance(data, dict) and data.keys() == {"float"} and data["float"] in ("inf", "-inf", "nan"):
        return float(data["float"])
    if isinstance(data, dict) and data.keys() == {"dim"}:
        try:
            return parse_dim(expect_text(data["dim"], where))
        except ShapeError as bad:
            raise error(where, bad.got, bad.expected) from bad
    expected = 'null, true, false, a number, a string, {"dim": TEXT}, {"float": "inf"} or a flat list of these'
    raise error(where, _short(data), expected)


def _type(text: str, where: str) -> TensorType:
    try:
        return TensorType.parse(text)
    except ShapeError as bad:
        raise error(where, bad.got, bad.expected) from bad


def error(where: str, got: str, expected: str, fix: str = "") -> GraphError:
    return GraphError(Diagnostic(where=where, got=got, expected=expected, fix=fix))


def _short(data: Any) -> str:
    if isinstance(data, (dict, list)):
        return f"a JSON {'object' if isinstance(data, dict) else 'list'} of {len(data)} items"
    text = repr(data)
    return text if len(text) <= 80 else text[:77] + "..."


def _mapping(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(k, str) for k in data):
        raise error(where, _short(data), "a JSON object")
    if len(data) > MAX_LIST:
        raise error(where, f"{len(data)} keys", f"at most {MAX_LIST}")
    return data


def expect_object(data: Any, keys: tuple[str, ...], where: str, required: tuple[str, ...] | None = None) -> None:
    """Raises `GraphError` unless `data` is an object with all required keys and no unknown one."""
    _mapping(data, where)
    unknown = [key for key in data if key not in keys]
    missing = [key for key in (keys if required is None else required) if key not in data]
    if unknown or missing:
        parts = [f"unknown keys {', '.join(map(_short, unknown[:5]))}"] if unknown else []
        parts += [f"no {', '.join(missing)}"] if missing else []
        raise error(where, " and ".join(parts), f"an object with {', '.join(keys)}")


def expect_list(data: Any, where: str, most: int = MAX_LIST) -> list[Any]:
    if not isinstance(data, list):
        raise error(where, _short(data), "a JSON list")
    if len(data) > most:
        raise error(where, f"{len(data)} items", f"at most {most}")
    return data


def expect_text(data: Any, where: str) -> str:
    if not isinstance(data, str):
        raise error(where, _short(data), "a string")
    if len(data) > MAX_NAME:
        raise error(where, f"{len(data)} characters", f"at most {MAX_NAME}")
    return data


def expect_texts(data: Any, where: str) -> tuple[str, ...]:
    return tuple(expect_text(item, f"{where}[{i}]") for i, item in enumerate(expect_list(data, where)))
