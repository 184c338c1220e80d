"""The networks of the Once-for-All spaces: MBConv layers, with parameter names as in OFA's own checkpoints.

Cai et al., ICLR 2020, arXiv 1908.09791; Howard et al. (MobileNetV3), arXiv 1905.02244; Cai et al. (ProxylessNAS), arXiv
1812.00332.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from genmad.ir import Block, BlockBuilder, Graph, GraphBuilder
from genmad.ops import OPSET

Layer = tuple[int, int]
"""Kernel size and expansion of one MBConv layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the supernet fixes for the layers of one stage.

    Attributes:
        channels: of its output, before the width multiplier.
        stride: of its first layer.
        activation: the op between convolutions.
        squeeze: whether layers have squeeze-and-excitation.
        single: whether it has one layer; else two to four.
    """

    channels: int
    stride: int
    activation: str
    squeeze: bool = False
    single: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Supernet:
    """A supernet that members are cut from.

    Attributes:
        name: of the main block.
        stem: channels of the first convolution and of the fixed first layer, before the width multiplier.
        stem_activation, first_activation: the ops after them.
        first_residual: whether the fixed first layer adds its input where widths agree.
        stages: the searched stages.
        expand: channels of a 1x1 convolution before pooling; None where there is none.
        last: channels before the classifier.
        eps: of every batch norm.
    """

    name: str
    stem: tuple[int, int]
    stem_activation: str
    first_activation: str
    first_residual: bool
    stages: tuple[Stage, ...]
    expand: int | None
    last: int
    eps: float


MOBILENET_V3 = Supernet(
    name="OFAMobileNetV3",
    stem=(16, 16),
    stem_activation="HardSwish",
    first_activation="Relu",
    first_residual=True,
    stages=(
        Stage(channels=24, stride=2, activation="Relu"),
        Stage(channels=40, stride=2, activation="Relu", squeeze=True),
        Stage(channels=80, stride=2, activation="HardSwish"),
        Stage(channels=112, stride=1, activation="HardSwish", squeeze=True),
        Stage(channels=160, stride=2, activation="HardSwish", squeeze=True),
    ),
    expand=960,
    last=1280,
    eps=1e-5,
)
PROXYLESS = Supernet(
    name="OFAProxylessNAS",
    stem=(32, 16),
    stem_activation="Relu6",
    first_activation="Relu6",
    first_residual=False,
    stages=(
        Stage(channels=24, stride=2, activation="Relu6"),
        Stage(channels=40, stride=2, activation="Relu6"),
        Stage(channels=80, stride=2, activation="Relu6"),
        Stage(channels=96, stride=1, activation="Relu6"),
        Stage(channels=192, stride=2, activation="Relu6"),
        Stage(channels=320, stride=1, activation="Relu6", single=True),
    ),
    expand=None,
    last=1280,
    eps=1e-3,
)


def rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Makes the graphs of one supernet.

    Attributes:
        supernet: what is fixed.
        width: multiplier of channels.
        resolution: side of the square input image in pixels.
    """

    supernet: Supernet
    width: float
    resolution: int

    def graph(self, stages: Sequence[Sequence[Layer]]) -> Graph:
        """The network of `stages`, for 1,000 classes."""
        net, builder = self.supernet, GraphBuilder(OPSET)
        main = builder.block(net.name, image=f"float32[batch,3,{self.resolution},{self.resolution}]")
        x = self._conv_norm(main, "image", "first_conv", self._scaled(net.stem[0]), 3, stride=2)
        x = _activate(main, x, "first_conv", net.stem_activation)
        x = self._first_layer(main, x)
        index = 1
        for stage, layers in zip(net.stages, stages, strict=True):
            for j, layer in enumerate(layers):
                name = self._layer_block(builder, main.types[x].shape, stage, layer, first=j == 0)
                x = main.add(f"@{name}", x, name=f"blocks.{index}")
                index += 1
        return builder.build(main.finish(self._head(main, x)))

    def layer_graph(self, stage: int, layer: Layer, *, first: bool) -> Graph:
        """One layer alone, on an input of its own size: what it costs is counted on it."""
        stages, builder = self.supernet.stages, GraphBuilder(OPSET)
        before = stages[stage - 1].channels if stage else self.supernet.stem[1]
        side = (self.resolution + 1) // 2
        for done in stages[: stage + (not first)]:
            side = (side + done.stride - 1) // done.stride
        channels = self._scaled(before if first else stages[stage].channels)
        name = self._layer_block(builder, ("batch", channels, side, side), stages[stage], layer, first=first)
        return Graph(main=builder.blocks[name])

    def _scaled(self, channels: int) -> int:
        return rounded(channels * self.width)

    def _conv_norm(
        self, block: BlockBuilder, x: str, name: str, channels: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> str:
        """A convolution without bias whose padding keeps the size (before the stride), then batch norm."""
        pad = kernel // 2
        x = block.add(
            "Conv", x, name=f"{name}.conv", scope=name, out_channels=channels, kernel_size=(kernel, kernel),
            stride=(stride, stride), padding=(pad, pad), groups=groups, bias=False,
        )  # fmt: skip
        return str(block.add("BatchNorm", x, name=f"{name}.bn", scope=name, eps=self.supernet.eps))

    def _first_layer(self, main: BlockBuilder, x: str) -> str:
        """The fixed layer before the stages: depthwise, then pointwise."""
        net, channels = self.supernet, self._scaled(self.supernet.stem[0])
        out = self._scaled(net.stem[1])
        y = self._conv_norm(main, x, "blocks.0.conv.depth_conv", channels, 3, groups=channels)
        y = _activate(main, y, "blocks.0.conv.depth_conv", net.first_activation)
        y = self._conv_norm(main, y, "blocks.0.conv.point_linear", out, 1)
        return str(main.add("Add", y, x, scope="blocks.0")) if net.first_residual and out == channels else y

    def _layer_block(
        self, builder: GraphBuilder, shape: Sequence[object], stage: Stage, layer: Layer, *, first: bool
    ) -> str:
        """The name of the block of one MBConv layer, made at its first use."""
        (kernel, expand), channels, side = layer, int(str(shape[1])), int(str(shape[2]))
        out, stride = self._scaled(stage.channels), stage.stride if first else 1
        name = f"MBConv{channels}to{out}_k{kernel}_e{expand}"
        if name in builder.blocks:
            return name
        block = builder.block(name, x=f"float32[batch,{channels},{side},{side}]")
        wide = rounded(channels * expand)
        x = self._conv_norm(block, "x", "conv.inverted_bottleneck", wide, 1)
        x = _activate(block, x, "conv.inverted_bottleneck", stage.activation)
        x = self._conv_norm(block, x, "conv.depth_conv", wide, kernel, stride=stride, groups=wide)
        x = _activate(block, x, "conv.depth_conv", stage.activation)
        if stage.squeeze:
            x = _squeeze(block, x, "conv.depth_conv.se", rounded(wide // 4))
        x = self._conv_norm(block, x, "conv.point_linear", out, 1)
        block.finish(block.add("Add", x, "x") if stride == 1 and channels == out else x)
        return name

    def _head(self, main: BlockBuilder, x: str) -> str:
        net, last = self.supernet, self._scaled(self.supernet.last)
        if net.expand is None:
            x = self._conv_norm(main, x, "feature_mix_layer", last, 1)
            x = _activate(main, x, "feature_mix_layer", net.stem_activation)
            x = main.add("GlobalAveragePool", x, name="pool", keepdims=False)
        else:
            x = self._conv_norm(main, x, "final_expand_layer", self._scaled(net.expand), 1)
            x = _activate(main, x, "final_expand_layer", net.stem_activation)
            x = main.add("GlobalAveragePool", x, name="pool", keepdims=True)
            x = main.add(
                "Conv", x, name="feature_mix_layer.conv", scope="feature_mix_layer", out_channels=last,
                kernel_size=(1, 1), bias=False,
            )  # fmt: skip
            x = _activate(main, x, "feature_mix_layer", net.stem_activation)
            x = main.add("Flatten", x, name="flatten", start=1, end=-1)
        return str(main.add("Linear", x, name="classifier.linear", scope="classifier", out_features=1000))


def read_stages(graph: Graph) -> list[list[Layer]]:
    """Kernel and expansion of every layer, by stage; a stage begins where the number of channels changes."""
    stages: list[list[Layer]] = []
    for call in (node for node in graph.main.nodes if node.is_call):
        block = graph.block_map[call.callee]
        channels, out = (t.shape[1] for t in (block.input_types[0], block.output_types[0]))
        if channels != out:
            stages.append([])
        stages[-1].append(_read_layer(block, int(str(channels))))
    return stages


def _read_layer(block: Block, channels: int) -> Layer:
    convolutions = (node.attr_map for node in block.nodes if node.op == "Conv")
    depthwise = next(attrs for attrs in convolutions if attrs["groups"] > 1)
    wide = depthwise["groups"]
    expand = next(e for e in (3, 4, 6) if rounded(channels * e) == wide)
    return depthwise["kernel_size"][0], expand


def _activate(block: BlockBuilder, x: str, name: str, op: str) -> str:
    return str(block.add(op, x, name=f"{name}.act", scope=name))


def _squeeze(block: BlockBuilder, x: str, name: str, reduced: int) -> str:
    params = {
        f"fc{i}_{slot}": f"{name}.fc.{part}.{slot}"
        for i, part in ((1, "reduce"), (2, "expand"))
        for slot in ("weight", "bias")
    }
    return str(
        block.add(
            "SqueezeExcite", x, name=name, scope="conv.depth_conv", params=params, reduced_channels=reduced,
            activation="relu", gate="hard_sigmoid",
        )
    )  # fmt: skip
