"""The checkpoint that fine-tuning starts from, its vocabulary grown by what a zoo holds beyond it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from genmad.ir import Diagnostic, Graph, GraphError
from genmad.model import GraphTransformer, GraphTransformerConfig
from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, PromptTokenizer, ScriptGrammar, Vocab
from genmad.tokenizer.features import leaf_word
from genmad.training.checkpoint import CheckpointError

FILES = ("config.json", "model.safetensors", "vocab.json", "prompt.model")
_IGNORED = frozenset({"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"})
# Tables with a row for each word of the vocabulary.
_WORD_TABLES = ("words.weight", "op_head.weight", "op_head.bias", "word_bias")


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is tuned.

    Attributes:
        model: with rows for every word of the reader's vocabulary.
        reader, grammar: over the grown vocabulary.
        added: words that the checkpoint's vocabulary did not hold, in id order.
        digest: of the checkpoint's weights and vocabulary.
    """

    model: GraphTransformer
    reader: GraphReader
    grammar: ScriptGrammar
    added: tuple[str, ...]
    digest: str


def leaf_words(graphs: Iterable[Graph]) -> tuple[str, ...]:
    """One word for each function or foreign operator that graphs keep as opaque leaves, sorted."""
    leaves = {leaf_word(node) for graph in graphs for block in graph.all_blocks for node in block.nodes}
    return tuple(sorted(leaves - {""}))


def load_base(folder: Path, graphs: Iterable[Graph] = ()) -> Base:
    """The checkpoint in `folder`; old words keep their ids, words for the graphs' leaves and for ops newer than the
    checkpoint come behind them.

    Raises `CheckpointError` for a folder that holds none, or one of another version of GenMAD.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise _unusable(folder, f"no {', '.join(missing)}", f"a folder with {', '.join(FILES)}")
    try:
        old = Vocab.load(folder / "vocab.json")
        sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = GraphTransformerConfig(**{k: v for k, v in sizes.items() if k not in _IGNORED})
        text = PromptTokenizer.load(folder / "prompt.model")
        weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    except (ValueError, TypeError, AttributeError, OSError, RuntimeError, GraphError, SafetensorError) as error:
        raise _unusable(folder, f"{type(error).__name__}: {error}"[:200], "the files of a checkpoint") from error
    _check_version(folder, old, config)
    vocab = old.extended((*Vocab.from_opset(OPSET).tokens, *leaf_words(graphs)))
    reader = GraphReader(vocab, text, OPSET)
    config.num_words, config.num_fields = len(vocab), reader.num_fields
    model = GraphTransformer(config)
    own = model.state_dict()
    wrong = _misfits(own, weights)
    if wrong:
        raise _unusable(folder, wrong, "the weights of this version's graph transformer")
    model.load_state_dict({name: _grown(name, tensor, weights[name], vocab, len(old)) for name, tensor in own.items()})
    known = {name: op for name, op in OPSET.items() if f"op:{name}" in vocab}
    digest = hashlib.sha256()
    for name in ("model.safetensors", "vocab.json"):
        digest.update((folder / name).read_bytes())
    return Base(
        model=model, reader=reader, grammar=ScriptGrammar(vocab=vocab, opset=known), added=vocab.tokens[len(old) :],
        digest=digest.hexdigest(),
    )  # fmt: skip


def _unusable(folder: Path, got: str, expected: str) -> CheckpointError:
    fix = "leave --base out for the checkpoint that ships with genmad, or name one that this version wrote"
    return CheckpointError(Diagnostic(where=f"--base {folder}", got=got, expected=expected, fix=fix))


def _check_version(folder: Path, vocab: Vocab, config: GraphTransformerConfig) -> None:
    """Refuses a vocabulary of a newer op set: its scripts could name what this version does not know."""
    foreign = [t for t in vocab.tokens if t.startswith("op:") and t[3:] not in OPSET]
    if foreign:
        raise _unusable(
            folder, f"ops that this version lacks: {', '.join(foreign)[:200]}", "a checkpoint of its op set"
        )
    if len(vocab) != config.num_words:
        got = f"{len(vocab)} words in vocab.json and {config.num_words} in config.json"
        raise _unusable(folder, got, "the vocabulary that the weights were trained with")


def _misfits(own: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> str:
    """What keeps weights from filling a model whose tables may have more rows; "" where nothing does."""
    if set(own) != set(weights):
        odd = sorted(set(own) ^ set(weights))
        return f"other tensors, such as {odd[0]}"
    for name, tensor in own.items():
        found = weights[name]
        may_grow = name in _WORD_TABLES or name == "fields.weight"
        if tensor.shape[1:] != found.shape[1:] or (
            len(tensor) < len(found) if may_grow else tensor.shape != found.shape
        ):
            return f"{name} of shape {tuple(found.shape)}, not {tuple(tensor.shape)}"
    return ""


def _grown(name: str, new: torch.Tensor, old: torch.Tensor, vocab: Vocab, known: int) -> torch.Tensor:
    """The old rows; a new word starts as its parent op, or as the mean op."""
    if new.shape == old.shape:
        return old
    out = torch.cat([old, new[len(old) :]])
    if name in _WORD_TABLES:
        ops = torch.tensor([i for i in vocab.family("op") if i < known])
        for row in range(known, len(vocab)):
            parent = f"op:{vocab.tokens[row].split(':')[1].split('=')[0]}" if "=" in vocab.tokens[row] else ""
            out[row] = old[vocab.id(parent)] if parent in vocab and vocab.id(parent) < known else old[ops].mean(0)
    return out
