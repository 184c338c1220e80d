"""The rules of NAS-Bench-201, read from its text alone; nothing here is used to make cells."""

import re

_OPERATIONS = frozenset({"none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"})


def problems(text: str) -> list[str]:
    """Why a cell string is not one of the 15,625: three nodes, node i with one operation from each node before it."""
    nodes = text.split("+")
    if len(nodes) != 3:
        return [f"{len(nodes)} nodes, not 3"]
    found: list[str] = []
    for number, node in enumerate(nodes, 1):
        if not re.fullmatch(r"\|([^|]*\|)+", node):
            found.append(f"node {number} is not of the form |op~0|...|")
            continue
        edges = node[1:-1].split("|")
        if len(edges) != number:
            found.append(f"node {number} has {len(edges)} edges, not {number}")
        for source, edge in enumerate(edges):
            name, _, start = edge.partition("~")
            if name not in _OPERATIONS:
                found.append(f"node {number}: unknown operation {name!r}")
            if start != str(source):
                found.append(f"node {number}: edge {source} starts at {start!r}")
    return found
