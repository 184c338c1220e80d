"""Graphs, deltas and op declarations' own types; standard library only.

The public names of the room, imported from here by other rooms:

>>> from genmad.ir import Graph, GraphBuilder, GraphDelta, canonical_hash
"""

from genmad.ir.build import BlockBuilder, GraphBuilder, OpSet, retype
from genmad.ir.canonical import canonical_hash, canonical_order, canonicalize, same_structure
from genmad.ir.check import check_types, type_problems
from genmad.ir.delta import BlockDelta, GraphDelta, Rewiring
from genmad.ir.diagnostics import Diagnostic, GenmadError, GraphError, ShapeError
from genmad.ir.fold import flatten, fold
from genmad.ir.graph import CALL, Block, Graph, Node, Place, Value, call_places, parameter_names, places, producer
from genmad.ir.opdef import Attr, Attrs, Cost, OnnxContext, OpDef, Param, Sample, TorchContext, Types
from genmad.ir.rewrite import (
    assemble,
    check_size,
    fresh_name,
    num_running_nodes,
    prune_dead,
    rename_blocks,
    rename_nodes,
    replace_block,
    topological_sort,
)
from genmad.ir.serial import from_json, to_json
from genmad.ir.text import from_text, to_text
from genmad.ir.types import (
    Dim,
    DType,
    Shape,
    SymDim,
    TensorType,
    divide_exactly,
    evaluate_dim,
    parse_dim,
    product,
)

__all__ = [
    "CALL",
    "Attr",
    "Attrs",
    "Block",
    "BlockBuilder",
    "BlockDelta",
    "Cost",
    "DType",
    "Diagnostic",
    "Dim",
    "GenmadError",
    "Graph",
    "GraphBuilder",
    "GraphDelta",
    "GraphError",
    "Node",
    "OnnxContext",
    "OpDef",
    "OpSet",
    "Param",
    "Place",
    "Rewiring",
    "Sample",
    "Shape",
    "ShapeError",
    "SymDim",
    "TensorType",
    "TorchContext",
    "Types",
    "Value",
    "assemble",
    "call_places",
    "canonical_hash",
    "canonical_order",
    "canonicalize",
    "check_size",
    "check_types",
    "divide_exactly",
    "evaluate_dim",
    "flatten",
    "fold",
    "fresh_name",
    "from_json",
    "from_text",
    "num_running_nodes",
    "parameter_names",
    "parse_dim",
    "places",
    "producer",
    "product",
    "prune_dead",
    "rename_blocks",
    "rename_nodes",
    "replace_block",
    "retype",
    "same_structure",
    "to_json",
    "to_text",
    "topological_sort",
    "type_problems",
]
