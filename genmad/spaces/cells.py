"""What cell spaces share: the layers of their networks, and reading them back from the structure of a block."""

from collections.abc import Sequence
from typing import Any

from genmad.ir import Block, BlockBuilder, Node

IMAGE = "float32[batch,3,32,32]"
"""CIFAR, which all cell benchmarks were made on."""


def conv(
    block: BlockBuilder, x: str, name: str, channels: int, kernel: int, *, stride: int = 1, groups: int = 1,
    dilation: int = 1,
) -> str:  # fmt: skip
    """A 2-D convolution without bias whose padding keeps the size (before the stride)."""
    pad = dilation * (kernel - 1) // 2
    return str(
        block.add(
            "Conv", x, name=name, scope=name, out_channels=channels, kernel_size=(kernel, kernel),
            stride=(stride, stride), padding=(pad, pad), dilation=(dilation, dilation), groups=groups, bias=False,
        )
    )  # fmt: skip


def norm(block: BlockBuilder, x: str, name: str) -> str:
    return str(block.add("BatchNorm", x, name=name, scope=name))


def relu(block: BlockBuilder, x: str, name: str) -> str:
    return str(block.add("Relu", x, name=name, scope=name))


def relu_conv_norm(block: BlockBuilder, x: str, name: str, channels: int, kernel: int, *, stride: int = 1) -> str:
    """ReLU, convolution, batch norm: the order of the DARTS family."""
    x = relu(block, x, f"{name}.op.0")
    return norm(block, conv(block, x, f"{name}.op.1", channels, kernel, stride=stride), f"{name}.op.2")


def conv_norm_relu(block: BlockBuilder, x: str, name: str, channels: int, kernel: int) -> str:
    """Convolution, batch norm, ReLU: the order of NAS-Bench-101."""
    x = norm(block, conv(block, x, f"{name}.conv", channels, kernel), f"{name}.bn")
    return relu(block, x, f"{name}.relu")


def pool(block: BlockBuilder, op: str, x: str, name: str, *, size: int = 3, stride: int = 1) -> str:
    """Max or average pooling that keeps the size (before the stride); padding never counts in the mean."""
    pad = (size - 1) // 2
    more: dict[str, Any] = {"count_include_pad": False} if op == "AveragePool" else {}
    return str(
        block.add(
            op, x, name=name, scope=name, kernel_size=(size, size), stride=(stride, stride), padding=(pad, pad), **more
        )
    )


def add_all(block: BlockBuilder, values: Sequence[str], scope: str) -> str:
    """The sum from left to right; a single value as it is."""
    total = values[0]
    for value in values[1:]:
        total = str(block.add("Add", total, value, scope=scope))
    return total


def classifier(main: BlockBuilder, x: str, name: str, classes: int = 10) -> str:
    """Mean over the image, then a linear layer."""
    x = str(main.add("GlobalAveragePool", x, name="pool", keepdims=False))
    return str(main.add("Linear", x, name=name, scope=name, out_features=classes))


def maker(block: Block, value: str) -> Node:
    """The node that makes a value. Raises `LookupError` when it is an input of the block."""
    return block.by_name[value]


def terms(block: Block, value: str, count: int) -> list[str]:
    """The values that `add_all` added up to this one. Raises `LookupError` or `ValueError` on another structure."""
    found: list[str] = []
    for _ in range(count - 1):
        node = maker(block, value)
        if node.op != "Add":
            raise ValueError(f"{node.name} is {node.op}, not Add")
        value, last = node.inputs
        found.insert(0, last)
    return [value, *found]
