"""One module per `genmad eval NAME`; each has `run(...) -> dict` and the command prints it as one JSON object."""

from collections.abc import Mapping

EVALS: Mapping[str, str] = {
    "corpus": "genmad.evals.corpus",
    "edits": "genmad.evals.edits",
    "import": "genmad.evals.importers",
    "onnx": "genmad.evals.onnx_files",
    "finetune": "genmad.evals.finetune",
    "importers": "genmad.evals.import_scan",
    "objectives": "genmad.evals.objectives",
    "pools": "genmad.evals.pools",
    "predictor": "genmad.evals.predictor",
    "proxies": "genmad.evals.proxies",
    "search": "genmad.evals.search",
    "timing": "genmad.evals.timing",
}
