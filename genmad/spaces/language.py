"""What language spaces share: token ids in, logits out, layers of a decoder, and how long a sequence costs are for."""

from collections.abc import Mapping

from genmad.cost import cost_of
from genmad.ir import BlockBuilder, Graph, SymDim
from genmad.ops import OPSET

IDS = "int64[batch,seq]"
SIZES: Mapping[str, int] = {"batch": 1, "seq": 1024}
"""What parameters and MACs of a member are counted at."""


def linear(block: BlockBuilder, x: str, name: str, features: int, *, bias: bool = True) -> str:
    return str(block.add("Linear", x, name=name, scope=name, out_features=features, bias=bias))


def layer_norm(block: BlockBuilder, x: str, name: str) -> str:
    return str(block.add("LayerNorm", x, name=name, scope=name, eps=1e-5))


def token_embedding(main: BlockBuilder, name: str, vocabulary: int, features: int) -> str:
    return str(
        main.add("Embedding", "input_ids", name=name, scope=name, num_embeddings=vocabulary, embedding_dim=features)
    )


def position_ids(main: BlockBuilder) -> str:
    """int64[seq]."""
    return str(main.add("Arange", name="positions", end=SymDim.symbol("seq")))


def rotary_tables(main: BlockBuilder, dim: int) -> tuple[str, str]:
    """cos and sin [1, seq, dim] for `RotaryEmbedding`: Su et al., arXiv 2104.09864, base 10,000. No parameters."""
    place = main.add("Arange", name="positions", end=SymDim.symbol("seq"), dtype="float32")
    frequencies = tuple(10_000.0 ** (-2 * i / dim) for i in range(dim // 2))
    table = main.add("Constant", name="rotary.frequencies", values=frequencies, shape=(1, 1, dim // 2), dtype="float32")
    angle = main.add("Mul", main.add("Unsqueeze", place, scope="rotary", axes=(0, 2)), table, scope="rotary")
    both = main.add("Concat", angle, angle, scope="rotary", axis=2)
    return str(main.add("Cos", both, name="rotary.cos")), str(main.add("Sin", both, name="rotary.sin"))


def sequence_costs(graph: Graph, sizes: Mapping[str, int] = SIZES) -> tuple[int, int]:
    """Params and MACs at `sizes`."""
    report = cost_of(graph, OPSET, sizes)
    return report.num_params, report.num_macs
