"""`genmad eval import`: do imported families compute what their models compute, how fast, and how much is lifted?"""

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genmad.evals.report import CpuClock, EvalReport, commit, fraction, use_one_thread
from genmad.ir.graph import Graph, places

if TYPE_CHECKING:
    from torch import Tensor

    from genmad.data.families import Family

TOLERANCE = 1e-5
SIZES = {"batch": 2, "seq": 9, "target": 7}
QUICK_FAMILIES = ("gpt2", "llama", "resnet")


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyResult:
    """One family.

    Attributes:
        max_abs_diff: between the model's outputs and the imported graph's, on weights moved away from their start.
        full_import_s: seconds to import it at full size on the meta device.
        lifted: share of the places in the full-size graph that are no `TorchCall`.
        error: why it could not be measured, "" when it could.
    """

    family: str
    max_abs_diff: float = float("nan")
    full_import_s: float = float("nan")
    lifted: float = float("nan")
    num_nodes: int = 0
    error: str = ""

    @property
    def round_trips(self) -> bool:
        return not self.error and self.max_abs_diff <= TOLERANCE


def run(
    quick: bool = False,
    seed: int = 0,
    n: int | None = None,
    checkpoint: str | None = None,  # noqa: ARG001 - every evaluation takes the same arguments
    *,
    families: Iterable["Family"] | None = None,
    full_size: bool | None = None,
) -> dict[str, Any]:
    """The report as a JSON object, over the first `n` families, all by default, a few when `quick`."""
    from genmad.data.families import FAMILIES

    clock, threads = CpuClock(), use_one_thread()
    chosen = list(families or (f for f in FAMILIES if not quick or f.model_type in QUICK_FAMILIES))[:n]
    measured = [measure(family, seed, full_size=not quick if full_size is None else full_size) for family in chosen]
    good = [r for r in measured if not r.error]
    times = sorted(r.full_import_s for r in good if r.full_import_s == r.full_import_s)
    required = [r for r, f in zip(measured, chosen, strict=True) if f.required]
    metrics = {
        "round_trip": fraction(sum(r.round_trips for r in measured), len(measured)),
        "round_trip_required": fraction(sum(r.round_trips for r in required), len(required)),
        "imported": fraction(len(good), len(measured)),
        "max_abs_diff": max((r.max_abs_diff for r in good), default=0.0),
        "lifted": round(sum(r.lifted for r in good) / len(good), 4) if good else 0.0,
    }
    if times:
        metrics |= {"full_import_median_s": times[len(times) // 2], "full_import_max_s": times[-1]}
    return EvalReport(
        name="import",
        commit=commit(),
        seed=seed,
        n=len(measured),
        split="transformers families: small configs for the round trip, shipped defaults for the full size",
        threads=threads,
        cpu_seconds=clock.seconds(),
        metrics=metrics,
        breakdown={"family": {r.family: _row(r) for r in measured}},
        failures=[{"family": r.family, "error": r.error or f"differs by {r.max_abs_diff}"} for r in _worst(measured)],
        quick=quick,
    ).to_json()


def _worst(measured: Iterable[FamilyResult]) -> list[FamilyResult]:
    bad = [r for r in measured if not r.round_trips]
    return sorted(bad, key=lambda r: (not r.error, -r.max_abs_diff))[:10]


def _row(result: FamilyResult) -> dict[str, Any]:
    if result.error:
        return {"error": result.error}
    row: dict[str, Any] = {"max_abs_diff": result.max_abs_diff, "lifted": result.lifted, "num_nodes": result.num_nodes}
    return row | ({"full_import_s": result.full_import_s} if result.full_import_s == result.full_import_s else {})


def measure(family: "Family", seed: int, *, full_size: bool) -> FamilyResult:
    """Round trip at the small config and, where asked for, import at the shipped config's size."""
    from genmad.importers.from_hf import import_config

    name = family.model_type
    try:
        difference, graph = round_trip(family, seed)
        seconds = float("nan")
        if full_size:
            config = family.make_config({})
            start = time.perf_counter()
            graph = import_config(config).graph
            seconds = round(time.perf_counter() - start, 3)
    except Exception as error:  # a family that fails is a row of the table
        print(f"{name}: {type(error).__name__}: {error}"[:300], file=sys.stderr, flush=True)
        return FamilyResult(family=name, error=f"{type(error).__name__}: {error}"[:300])
    timed = f", full size in {seconds} s" if full_size else ""
    print(f"{name}: differs by {difference:.1e}{timed}", file=sys.stderr, flush=True)
    return FamilyResult(
        family=name,
        max_abs_diff=difference,
        full_import_s=seconds,
        lifted=lifted_share(graph),
        num_nodes=graph.num_nodes,
    )


def lifted_share(graph: Graph) -> float:
    """Share of the running model's nodes that are ops of the op set rather than calls of torch functions."""
    ops = [place.node.op for place in places(graph) if not place.node.is_call]
    return fraction(sum(op != "TorchCall" for op in ops), len(ops))


def round_trip(family: "Family", seed: int) -> tuple[float, Graph]:
    """Largest absolute difference of the outputs, and the imported graph. Raises `ValueError` on unequal shapes."""
    import warnings

    import torch

    from genmad.importers.from_hf import build_random, import_config
    from genmad.importers.from_torch import ModuleParameters, main_outputs
    from genmad.lowering.to_torch import to_torch

    generator = torch.Generator().manual_seed(seed)
    module = build_random(family.make_config(), seed=seed)
    _perturb([*module.parameters(), *module.buffers()], generator)
    imported = import_config(family.make_config())
    if not isinstance(imported.parameters, ModuleParameters):
        raise ValueError(
            f"{family.model_type}: got parameters of {type(imported.parameters).__name__}; expected a module's"
        )
    weights = imported.parameters.of(module)
    lowered = to_torch(imported.graph, {name: weights[name] for name in weights})
    inputs = _random_inputs(module, generator)
    extra = {"use_cache": False} if hasattr(module.config, "use_cache") else {}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = [tensor for _, tensor in main_outputs(module(**inputs, **extra))]
        got = lowered(**inputs)
    got = [got] if isinstance(got, torch.Tensor) else list(got)
    if [t.shape for t in got] != [t.shape for t in want]:
        raise ValueError(f"{family.model_type}: got shapes {[tuple(t.shape) for t in got]}; expected the model's")
    return max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True)), imported.graph


def _perturb(tensors: Iterable["Tensor"], generator: Any) -> None:
    """Moves every parameter and statistic, so that a swapped or forgotten one changes the output."""
    import torch

    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point() and tensor.dim() > 0:
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.mul_(1 + 0.2 * noise).add_((0.05 if tensor.dim() == 1 else 0.01) * noise)


def _random_inputs(module: Any, generator: Any) -> "Mapping[str, Tensor]":
    """Inputs at sizes other than the traced ones."""
    import torch

    from genmad.importers.from_hf import example_inputs

    examples, dynamic = example_inputs(module)
    made = {}
    for name, tensor in examples.items():
        axes = dynamic.get(name, {})
        shape = [SIZES[axes[i]] if i in axes else size for i, size in enumerate(tensor.shape)]
        whole = tensor.dtype == torch.int64
        made[name] = (
            torch.randint(3, 90, shape, generator=generator) if whole else torch.randn(shape, generator=generator)
        )
    return made
