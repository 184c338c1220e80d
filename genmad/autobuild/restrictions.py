"""What people who measured a device left out of the Once-for-All spaces before searching: the paper's Layer-Insight.

From Mills et al., "Profiling Neural Blocks and Design Spaces for Mobile Neural Architecture Search" (CIKM 2021, arXiv
2109.12426) and its published settings, by stage ("unit" there) and device. There are two kinds of restriction: layers
that are dropped, and stages that are cut short. Where a device's row has none of a kind, none was published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from genmad.spaces.ofa import OPS, OfaSpace

DEVICES = ("gpu", "cpu", "npu")
"""RTX 2080 Ti, Threadripper 2990WX, Kirin 9000."""
KINDS = ("both", "layers", "depth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """The layers and depths that a search may use, one entry per stage.

    Attributes:
        layers: choices of a layer, numbers of `genmad.spaces.ofa.OPS`.
        most: the most layers.
        rates: the chance that a mutation touches the stage.
    """

    layers: tuple[tuple[int, ...], ...]
    most: tuple[int, ...]
    rates: tuple[float, ...]

    def allows(self, stages: Sequence[Sequence[int]]) -> bool:
        """Whether choices of layers by stage lie inside."""
        return all(
            len(stage) <= most and set(stage) <= set(layers)
            for stage, layers, most in zip(stages, self.layers, self.most, strict=True)
        )


def unrestricted(space: OfaSpace) -> Restriction:
    """The whole space; half of the stages are touched by a mutation, as in the paper's searches."""
    stages = space.supernet.stages
    return Restriction(
        layers=(tuple(range(len(OPS))),) * len(stages),
        most=tuple(1 if stage.single else 4 for stage in stages),
        rates=(0.5,) * len(stages),
    )


_DROPPED: Mapping[str, tuple[str, ...]] = {
    "gpu": ("k3_e3", "k7_e3", "k3_e4"),
    "cpu": (),
    "npu": ("k7_e3", "k7_e4", "k7_e6"),
}
_MOST: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("ofa_mbv3", "gpu"): (4, 3, 4, 3, 3),
    ("ofa_mbv3", "cpu"): (3, 3, 3, 4, 4),
    ("ofa_pn", "gpu"): (3, 3, 3, 4, 4, 1),
    ("ofa_pn", "cpu"): (3, 3, 4, 4, 4, 1),
}
# On the NPU the early stages are mutated half as often.
_RARE = (0.25, 0.25, 0.25)


def insight(space: OfaSpace, device: str, kind: str = "both") -> Restriction:
    """The published restriction for one of `DEVICES`; `kind` leaves only its dropped layers or only its short stages.

    `layers` of the CPU and `depth` of the NPU are the whole space.
    """
    if device not in DEVICES or kind not in KINDS:
        raise ValueError(f"device {device!r}, kind {kind!r}: expected one of {DEVICES} and one of {KINDS}")
    found = unrestricted(space)
    if kind != "depth":
        kept = tuple(i for i, op in enumerate(OPS) if op not in _DROPPED[device])
        found = replace(found, layers=(kept,) * len(found.most))
        if device == "npu":
            found = replace(found, rates=(*_RARE, *found.rates[len(_RARE) :]))
    if kind != "layers":
        found = replace(found, most=_MOST.get((space.name, device), found.most))
    return found
