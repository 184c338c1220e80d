"""What neural peers are given beside labels: experts pretrained on cheap columns, embeddings of the graph transformer.

Legal are columns that no full training has written: parameters, MACs, latencies and energies, zero-cost proxies, and,
said apart, the accuracy of a short schedule of its own (12 of 200 epochs; 4 and 12 of 108). Experts are pretrained once
per set and run, on the graphs of all architectures without any label, and serve every draw of labels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from genmad.autobuild.architecture import ArchGraph, Floats, LabelledSet
from genmad.autobuild.graph_features import GraphColumns, distinct, key_of
from genmad.autobuild.peers.experts import CheapTask, ExpertBank, cheap_task, pretrain, structure_task
from genmad.evals.predictor_trials import column_reader
from genmad.model.collate import RESTORE_PROMPT, Source, collate_sources
from genmad.sampling.pretrained import Pretrained, load_pretrained
from genmad.spaces import get_space

ENSEMBLES = ("gates", "gin")
PRETRAINING_SEED = 7
SPACES = {"nb201": "nb201", "nb201_edges": "nb201", "nb101": "nb101"}
_LATENCIES = ("help_", "edgegpu", "raspi4", "edgetpu", "pixel3", "eyeriss", "fpga")
_SHORT = {"nb101": ("val_ep4", "val_ep12")}
_BATCH = 16
# In memory only: (set, tasks) -> experts, set -> embeddings by graph.
_banks: dict[tuple[str, ...], ExpertBank] = {}
_embeddings: dict[str, dict[bytes, Floats]] = {}


def proxy_columns(labelled: LabelledSet) -> list[str]:
    """The zero-cost proxies of a set."""
    return [name for name in labelled.targets if name == "zen" or name.startswith(("zc_", "zen_", "naswot_"))]


def cost_columns(labelled: LabelledSet) -> list[str]:
    """Sizes, latencies and energies of a set."""
    names = [name for name in labelled.targets if name not in proxy_columns(labelled)]
    return [n for n in names if n in ("params", "params_M", "flops_M") or any(part in n for part in _LATENCIES)]


def short_columns(labelled: LabelledSet) -> list[str]:
    """Accuracies after a short schedule."""
    given = _SHORT.get(labelled.name, ())
    return [name for name in labelled.targets if name in given or "_ep12_" in name]


def tasks(labelled: LabelledSet, *, short: bool) -> list[CheapTask]:
    """The experts' tasks: the structure of the graphs, costs and proxies where the set has them, and the short
    schedule where it is wanted."""
    found = [structure_task(labelled.schema, labelled.graphs)]
    kinds = {"costs": cost_columns(labelled), "proxies": proxy_columns(labelled)}
    kinds |= {"short": short_columns(labelled)} if short else {}
    for name, columns in kinds.items():
        if columns:
            found.append(cheap_task(name, labelled.graphs, [labelled.targets[column] for column in columns]))
    return found


def bank(labelled: LabelledSet, *, short: bool) -> ExpertBank:
    """Experts of these tasks, made when they are first asked for."""
    key = (labelled.name, str(len(labelled.graphs)), "short" if short else "zero")
    if key not in _banks:
        _banks[key] = pretrain(labelled.schema, tasks(labelled, short=short), encoders=ENSEMBLES, seed=PRETRAINING_SEED)
    return _banks[key]


def experts(labelled: LabelledSet, _seed: int) -> Mapping[str, object]:
    """Settings of `experts` on what is known without training."""
    return {"bank": bank(labelled, short=False), "members": len(ENSEMBLES)}


def experts_short(labelled: LabelledSet, _seed: int) -> Mapping[str, object]:
    """The same with the short schedule."""
    return {"bank": bank(labelled, short=True), "members": len(ENSEMBLES)}


def blend_experts(labelled: LabelledSet, seed: int) -> Mapping[str, object]:
    """Settings of `blend`: boosting and the feature process with the proxies' columns, and the experts."""
    return _blend(labelled, experts(labelled, seed), proxy_columns(labelled))


def blend_experts_short(labelled: LabelledSet, seed: int) -> Mapping[str, object]:
    """The same with the short schedule, as a task and as columns."""
    columns = [*proxy_columns(labelled), *short_columns(labelled)]
    return _blend(labelled, experts_short(labelled, seed), columns)


def _blend(labelled: LabelledSet, given: Mapping[str, object], columns: Sequence[str]) -> Mapping[str, object]:
    read: dict[str, object] = {"columns": column_reader(labelled, columns)} if columns else {}
    return {
        "members": ("boosting", "feature_gp", "experts"),
        "settings": (read, read, given),
    }


def pretrained(labelled: LabelledSet, _seed: int) -> Mapping[str, object]:
    """Settings of `pretrained`: the shipped graph transformer reads every architecture as a whole network."""
    if labelled.name not in SPACES:
        return {}
    return {"embed": embedder(labelled)}


def embedder(labelled: LabelledSet) -> GraphColumns:
    """What gives float64[N, D] for graphs of the set; every distinct graph is embedded once, when first asked for."""
    space = get_space(SPACES[labelled.name])
    texts = {key_of(graph): text for graph, text in zip(labelled.graphs, labelled.texts, strict=True)}
    known = _embeddings.setdefault(labelled.name, {})
    kit: list[Pretrained] = []

    def embed(graphs: Sequence[ArchGraph]) -> Floats:
        unique, at = distinct(graphs)
        missing = [key for graph in unique if (key := key_of(graph)) not in known]
        if missing and not kit:
            kit.append(load_pretrained())
        for start in range(0, len(missing), _BATCH):
            keys = missing[start : start + _BATCH]
            whole = [space.to_graph(space.from_text(texts[key])) for key in keys]
            prompt = kit[0].reader.text.encode(RESTORE_PROMPT)
            sources = [Source.of(kit[0].reader.read(graph), prompt, RESTORE_PROMPT) for graph in whole]
            known.update(zip(keys, _encoded(kit[0], sources), strict=True))
        return np.stack([known[key_of(graph)] for graph in unique])[at]

    return embed


@torch.no_grad()
def _encoded(kit: Pretrained, sources: Sequence[Source]) -> Floats:
    """Mean and deviation of the encoder's states over the nodes of each source, [N, 2 D]."""
    batch = collate_sources(sources)
    nodes_BND = kit.model.encode(batch).nodes_BND
    mask_BN1 = (batch.op_BN > 0).float()[..., None]
    count_B1 = mask_BN1.sum(1)
    mean_BD = (nodes_BND * mask_BN1).sum(1) / count_B1
    spread_BD = (((nodes_BND - mean_BD[:, None]) * mask_BN1) ** 2).sum(1) / count_B1
    return np.asarray(torch.cat([mean_BD, spread_BD.sqrt()], -1).double().numpy(), np.float64)
