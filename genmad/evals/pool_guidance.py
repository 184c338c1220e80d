"""Whether a condition works: true labels of pools drawn with the target, without it, and with it turned round."""

from typing import Any

import numpy as np

from genmad.sampling.pools import Law, NetLaw, PoolSampler
from genmad.search.guidance import GUIDANCE, labelled, learn
from genmad.search.methods import table_query
from genmad.spaces import LabelTable, Space
from genmad.spaces.tables import data_folder
from genmad.training.pools import fit_conditional

TARGETS = {"c10": "c10_test", "c100": "c100_test"}
NUM_LABELS = 100
POOL = 1000
BINS = 40


def guided_table(space: Space, data: str | None) -> LabelTable | None:
    """The label table, where it holds every member of the space."""
    folder = data_folder(data)
    return space.read_labels(folder) if folder is not None and space.name == "nb201" else None


def guided_distributions(
    space: Space, law: Law, data: str | None, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Mean true labels of three pools of `POOL` members per target, and their histograms; empty where the space's
    every member is not labelled or no table is at hand."""
    table = guided_table(space, data)
    if table is None:
        return {}, {}
    share = law.net.about.get("share") if isinstance(law, NetLaw) else None
    plain = PoolSampler(space=space, law=law, seed=seed)
    means: dict[str, float] = {}
    spread: dict[str, Any] = {}
    for short, column in TARGETS.items():
        query = table_query(table, column)
        words, values = labelled(space, table, column, NUM_LABELS, share=share, seed=seed)
        pools = {"unguided": query(plain.draw(POOL).words)}
        for name, invert in (("guided", False), ("inverted", True)):
            found = learn(
                space, words, values, lambda n: plain.independent(n)[0], fit_conditional, invert=invert, seed=seed
            )
            own = NetLaw(net=found.net, condition=found.condition, guidance=GUIDANCE)
            pools[name] = query(PoolSampler(space=space, law=own, seed=seed).draw(POOL).words)
        edges = np.linspace(min(map(np.min, pools.values())), max(map(np.max, pools.values())), BINS + 1)
        means |= {f"mean_{name}_{short}": round(float(labels.mean()), 4) for name, labels in pools.items()}
        spread[short] = {"edges": np.round(edges, 3).tolist()} | {
            name: np.histogram(labels, edges)[0].tolist() for name, labels in pools.items()
        }
    return means, spread
