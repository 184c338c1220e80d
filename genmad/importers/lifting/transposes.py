"""Two transposes in a row become one, or none; two reshapes that undo each other become none."""

from genmad.importers.flat import Flat, FlatNode


def merge_transposes(flat: Flat) -> int:
    count = flat.rewrite("Transpose", _merged)
    same = {}
    for node in flat.nodes:
        if node.op == "Transpose" and node.attrs["perm"] == tuple(range(len(node.attrs["perm"]))):
            same[node.outputs[0]] = node.inputs[0]
    if same:
        flat.forward_values(same)
    return count


def _merged(flat: Flat, node: FlatNode) -> list[FlatNode] | None:
    first = flat.source(node.inputs[0], "Transpose") if node.op == "Transpose" else None
    if first is None:
        return None
    perm = tuple(first.attrs["perm"][i] for i in node.attrs["perm"])
    return [flat.make("Transpose", first.inputs, {"perm": perm}, call=node.call, outputs=node.outputs)]


def drop_reshapes(flat: Flat) -> int:
    """A reshape of a reshape that gives the first one's input back."""
    same = {}
    for node in flat.nodes:
        first = flat.source(node.inputs[0], "Reshape") if node.op in ("Reshape", "Flatten") else None
        if first is not None and flat.types[first.inputs[0]] == node.types[0]:
            same[node.outputs[0]] = first.inputs[0]
    if same:
        flat.forward_values(same)
    return len(same)
