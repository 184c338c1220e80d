"""How far two sets of graphs are from each other: maximum mean discrepancy under a Weisfeiler-Lehman kernel.

The kernel of two graphs is the mean, over 0 to 2 rounds of relabelling (Shervashidze et al. 2011, section 3), of the
cosine between their label counts. The distance is the square root of the biased estimate of MMD^2 (Gretton et al.
2012, eq. 5): 0 for equal sets, at most sqrt(2). It sees ops, their settings other than sizes, and wiring up to two
steps away.
"""

import math
from collections import Counter
from collections.abc import Sequence

from genmad.ir import Block, Graph, Node

ROUNDS = 3
# Settings that tell kinds of layers apart; widths and counts do not.
_KINDS = ("kernel_size", "stride", "dilation", "causal", "approximate", "target", "op_type")
Labels = tuple[Counter[int], ...]


def wl_labels(graph: Graph) -> Labels:
    """Label counts after each round, over all blocks as they are stored."""
    found = [_block_labels(block) for block in graph.all_blocks]
    return tuple(sum((counts[r] for counts in found), Counter()) for r in range(ROUNDS))


def _block_labels(block: Block) -> list[Counter[int]]:
    label = {value.name: hash_text("input") for value in block.inputs}
    label |= {node.name: hash_text(_kind(node)) for node in block.nodes}
    users: dict[str, list[str]] = {name: [] for name in label}
    sources: dict[str, list[str]] = {name: [] for name in label}
    for node in block.nodes:
        for value in node.inputs:
            if value:
                sources[node.name].append(value.partition(":")[0])
                users[value.partition(":")[0]].append(node.name)
    nodes = [node.name for node in block.nodes]
    rounds = [Counter(label[name] for name in nodes)]
    for _ in range(ROUNDS - 1):
        label = {
            name: hash_text(f"{own} {[label[s] for s in sources[name]]} {sorted(label[u] for u in users[name])}")
            for name, own in label.items()
        }
        rounds.append(Counter(label[name] for name in nodes))
    return rounds


def hash_text(text: str) -> int:
    """The same on every machine and in every run, as `hash` is not."""
    import zlib

    return zlib.crc32(text.encode()) | zlib.adler32(text.encode()) << 32


def _kind(node: Node) -> str:
    if node.is_call:
        return "call"
    attrs = node.attr_map
    depthwise = node.op == "Conv" and attrs.get("groups", 1) not in (1, None)
    return f"{node.op} {[attrs[k] for k in _KINDS if k in attrs]} {depthwise}"


def kernel(a: Labels, b: Labels) -> float:
    """Between 0 and 1."""
    return sum(_cosine(x, y) for x, y in zip(a, b, strict=True)) / len(a)


def _cosine(a: Counter[int], b: Counter[int]) -> float:
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    dot = sum(count * large[key] for key, count in small.items())
    norm = math.sqrt(sum(c * c for c in a.values()) * sum(c * c for c in b.values()))
    return dot / norm if norm else 0.0


def mmd(first: Sequence[Graph], second: Sequence[Graph]) -> float:
    """The distance of two sets, neither of them empty."""
    a, b = [wl_labels(g) for g in first], [wl_labels(g) for g in second]

    def mean(x: Sequence[Labels], y: Sequence[Labels]) -> float:
        return sum(kernel(p, q) for p in x for q in y) / (len(x) * len(y))

    return math.sqrt(max(0.0, mean(a, a) + mean(b, b) - 2 * mean(a, b)))
