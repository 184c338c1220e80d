"""Loading a checkpoint folder: weights, vocabulary and prompt tokenizer. Safetensors and JSON only."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from genmad.ir import Diagnostic, GenmadError
from genmad.model import GraphTransformer, GraphTransformerConfig
from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, PromptTokenizer, ScriptGrammar, Vocab

FILES = ("config.json", "model.safetensors", "vocab.json", "prompt.model")
HASHES = "forbidden.json"


class CheckpointError(GenmadError):
    """A folder that holds no usable checkpoint."""

    exit_code = 3

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(str(diagnostic))


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A loaded generator; `forbidden` holds canonical hashes of graphs that it must not give back."""

    model: GraphTransformer
    reader: GraphReader
    grammar: ScriptGrammar
    forbidden: frozenset[str] = frozenset()


def shipped_folder() -> Path:
    """Where the checkpoint that comes with the package lies."""
    import genmad.checkpoints

    return Path(genmad.checkpoints.__path__[0]) / "edit-small"


def load_pretrained(folder: str | Path | None = None) -> Pretrained:
    """The checkpoint in `folder`, the shipped one by default. Raises `CheckpointError`."""
    path = Path(folder) if folder is not None else shipped_folder()
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        expected = "a folder with " + ", ".join(FILES)
        fix = "give a folder that GenMAD's training wrote"
        raise CheckpointError(Diagnostic(where=str(path), got=f"no {', '.join(missing)}", expected=expected, fix=fix))
    vocab = Vocab.load(path / "vocab.json")
    reader = GraphReader(vocab, PromptTokenizer.load(path / "prompt.model"), OPSET)
    sizes = json.loads((path / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        model = GraphTransformer(GraphTransformerConfig(**{k: v for k, v in sizes.items() if k not in _IGNORED}))
    weights = {name: tensor.float() for name, tensor in load_file(path / "model.safetensors").items()}
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        got, expected = str(error).splitlines()[-1].strip()[:200], "the weights that config.json describes"
        raise CheckpointError(Diagnostic(where=str(path / "model.safetensors"), got=got, expected=expected)) from error
    known = {name: op for name, op in OPSET.items() if f"op:{name}" in vocab}
    grammar = ScriptGrammar(vocab=vocab, opset=known)
    return Pretrained(model=model.eval(), reader=reader, grammar=grammar, forbidden=_forbidden(path / HASHES))


def _forbidden(path: Path) -> frozenset[str]:
    """The hashes that fine-tuning with `--forbid-copies` wrote. Raises `CheckpointError` for a file that holds none."""
    if not path.is_file():
        return frozenset()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(Diagnostic(where=str(path), got=str(error)[:200], expected="a JSON list")) from error
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise CheckpointError(Diagnostic(where=str(path), got="another JSON", expected="a list of hashes"))
    return frozenset(found)


_IGNORED = frozenset({"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"})
