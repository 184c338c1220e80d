"""A short description of an architecture in words, made from its facts."""

from genmad.data.facts import Facts

_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_READS = {
    "text": "reads text", "image": "reads images", "video": "reads video", "audio": "reads audio",
    "layout": "reads text boxes", "graph": "reads graphs", "time series": "reads time series",
    "latent": "reads latent maps",
}  # fmt: skip


def describe(facts: Facts, *, name: str, library: str, task: str = "", modality: str = "") -> str:
    """One to three sentences: what it is, what it is made of, what it costs.

    Args:
        name: of the model.
        library: that it comes from, "" for none worth naming.
        task: of its head, "" where unknown.
        modality: what it reads, if not what the facts say.
    """
    reads = [_READS[kind].removeprefix("reads ") for kind in (modality or facts.modality).split("+") if kind in _READS]
    first = f"{name}" + (f" of {library}" if library else "")
    first += f" reads {' and '.join(reads)}" if reads else " is a network"
    first += f" and is made for {task}" if task else ""
    sentences = [first, _made_of(facts), _costs(facts)]
    return " ".join(s + "." for s in sentences if s)


def _made_of(facts: Facts) -> str:
    size = []
    if facts.depth > 1:
        size.append(f"{facts.depth} layers")
    if facts.width:
        size.append(f"width {facts.width}")
    if facts.num_heads:
        size.append(f"{facts.num_heads} attention heads")
    parts = [*facts.kinds, *filter(None, (facts.norm, facts.activation))]
    told = ", ".join(size)
    with_parts = f"with {_listed(parts)}" if parts else ""
    text = " ".join(filter(None, (told, with_parts)))
    return f"It has {text}" if told else text.replace("with", "It is built with", 1)


def _costs(facts: Facts) -> str:
    if facts.num_params is None or facts.num_macs is None:
        return f"{facts.num_nodes_flat} ops run in one pass"
    return f"{number(facts.num_params)} parameters and {number(facts.num_macs)} MACs in {facts.num_nodes_flat} ops"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def number(value: int) -> str:
    """Three figures and a unit.

    >>> number(124_439_808), number(950)
    ('124M', '950')
    """
    for size, unit in _UNITS:
        if value >= size:
            return f"{value / size:.3g}{unit}" if value < 1000 * size else f"{value // size}{unit}"
    return str(value)
