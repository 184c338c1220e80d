"""One module per `genmad eval NAME`; each has `run(...) -> dict` and the command prints it as one JSON object."""

from collections.abc import Mapping

EVALS: Mapping[str, str] = {
    "edits": "genmad.evals.edits",
    "import": "genmad.evals.importers",
    "objectives": "genmad.evals.objectives",
    "timing": "genmad.evals.timing",
}
