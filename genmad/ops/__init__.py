"""The op set: one declaration per op, one file per family."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from genmad.ir.opdef import OpDef
from genmad.ops.activation import ACTIVATION
from genmad.ops.attention import ATTENTION
from genmad.ops.constant import CONSTANT
from genmad.ops.conv import CONV
from genmad.ops.elementwise import ELEMENTWISE
from genmad.ops.experts import EXPERTS
from genmad.ops.index import INDEX
from genmad.ops.linear import LINEAR
from genmad.ops.mixed_attention import MIXED_ATTENTION
from genmad.ops.mixer import MIXER
from genmad.ops.norm import NORM
from genmad.ops.onnx_call import ONNX_CALL
from genmad.ops.pool import POOL
from genmad.ops.reduce import REDUCE
from genmad.ops.reshape import RESHAPE
from genmad.ops.resize import RESIZE
from genmad.ops.selection import SELECTION
from genmad.ops.sequence_conv import SEQUENCE_CONV
from genmad.ops.sparse_attention import SPARSE_ATTENTION
from genmad.ops.spatial_attention import SPATIAL_ATTENTION
from genmad.ops.torch_call import TORCH_CALL


def join(families: Iterable[tuple[OpDef, ...]]) -> Mapping[str, OpDef]:
    """The ops of all families by name, in order. Raises `ValueError` when two have one name."""
    table: dict[str, OpDef] = {}
    for family in families:
        for op in family:
            if op.name in table:
                raise ValueError(
                    f"op {op.name}: got a second declaration ({op.family}); {table[op.name].family} has one"
                )
            table[op.name] = op
    return MappingProxyType(table)


FAMILIES = (
    LINEAR,
    CONV,
    POOL,
    NORM,
    ACTIVATION,
    ATTENTION,
    ELEMENTWISE,
    REDUCE,
    RESHAPE,
    INDEX,
    SELECTION,
    CONSTANT,
    RESIZE,
    MIXER,
    EXPERTS,
    SPARSE_ATTENTION,
    MIXED_ATTENTION,
    SEQUENCE_CONV,
    SPATIAL_ATTENTION,
    TORCH_CALL,
    ONNX_CALL,
)

OPSET: Mapping[str, OpDef] = join(FAMILIES)
