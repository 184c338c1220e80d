"""The rules of the DARTS space, read from a genotype alone; nothing here is used to make cells.

Liu et al., ICLR 2019, arXiv 1806.09055, section 2.4: four nodes per cell, each with two distinct inputs among the
cell's two inputs and the nodes before it, one of seven operations on each.
"""

import re

_OPERATIONS = frozenset(
    {"max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"}
)
_GENOTYPE = re.compile(r"Genotype\(normal=\[(.*?)\], normal_concat=(.*?), reduce=\[(.*?)\], reduce_concat=(.*?)\)\Z")
_EDGE = re.compile(r"\('(\w+)', (\d+)\)")
_CONCATS = ("range(2, 6)", "[2, 3, 4, 5]")
Edges = list[tuple[str, int]]


def parse(text: str) -> tuple[Edges, Edges] | None:
    """The edges of the normal and of the reduction cell as (operation, input); None when the form is another."""
    found = _GENOTYPE.match(text.strip()[:4000])
    if not found or found[2] not in _CONCATS or found[4] not in _CONCATS:
        return None
    normal, reduce = ([(op, int(source)) for op, source in _EDGE.findall(part)] for part in (found[1], found[3]))
    for edges, part in ((normal, found[1]), (reduce, found[3])):
        if ", ".join(f"('{op}', {source})" for op, source in edges) != part:
            return None
    return normal, reduce


def problems(text: str) -> list[str]:
    """Why a text is no genotype of the space; empty when it is one."""
    cells = parse(text)
    if cells is None:
        return ["not of the form Genotype(normal=[('op', input), ...], normal_concat=range(2, 6), reduce=[...], ...)"]
    found: list[str] = []
    for name, edges in zip(("normal", "reduce"), cells, strict=True):
        if len(edges) != 8:
            found.append(f"{name}: {len(edges)} edges, not 8")
        for node in range(2, 6):
            pair = edges[2 * (node - 2) : 2 * (node - 1)]
            sources = [source for _, source in pair]
            if len(set(sources)) != len(sources):
                found.append(f"{name}: node {node} reads {sources[0]} twice")
            found += [f"{name}: node {node} reads {s}, which is not before it" for s in sources if s >= node]
            found += [f"{name}: unknown operation {op!r}" for op, _ in pair if op not in _OPERATIONS]
    return found
