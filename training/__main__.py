"""`python -m genmad.training CONFIG OUT [--resume] [--corpus FOLDER]`: builds a missing corpus, then trains."""

import argparse
import random
import shutil
import sys
from pathlib import Path

from genmad.data import corpus
from genmad.intents.library import sample_example
from genmad.intents.renaming import rename_modules
from genmad.model.collate import RESTORE_PROMPT
from genmad.ops import OPSET
from genmad.tokenizer import GraphReader, PromptTokenizer, ScriptGrammar, Vocab
from genmad.tokenizer.text import WORD_LIST
from genmad.training.config import TrainConfig, load_config
from genmad.training.objectives.scripts import COMPLETION_PROMPTS


def say(text: object) -> None:
    """Progress goes to standard error."""
    print(text, file=sys.stderr, flush=True)


def build_corpus(config: TrainConfig, folder: Path) -> None:
    """Imports the families of the config, the held-out ones included, into `folder`."""
    settings = config.corpus
    wanted = None if settings.families is None else (*settings.families, *settings.held_out)
    variants = corpus.family_variants(wanted, settings.variants_per_family, settings.narrow_per_family, config.seed)
    records, failures = corpus.build(variants, frozenset(settings.held_out), report=say)
    corpus.save(records, failures, folder)
    say(f"corpus: {len(records)} distinct graphs, {len(failures)} failures")


def train_text(records: list[corpus.ArchRecord], config: TrainConfig, prompts: int = 20_000) -> PromptTokenizer:
    """SentencePiece over seen phrasings and module names of the training families."""
    rng = random.Random(f"text-{config.seed}")
    sentences = [RESTORE_PROMPT, *COMPLETION_PROMPTS]
    for _ in range(prompts):
        graph = rng.choice(records).graph
        graph = rename_modules(graph, rng) if rng.random() < 0.1 else graph
        example = sample_example(graph, rng)
        if example is not None:
            sentences.append(example.prompt)
    sentences += [n.name for r in records for b in r.graph.all_blocks for n in b.nodes]
    symbols = {*OPSET, *(a.name for op in OPSET.values() for a in op.attrs if len(a.name) > 3 and "_" not in a.name)}
    return PromptTokenizer.train(
        sentences, {s for s in symbols if s.isalpha() and len(s) > 3}, vocab_size=config.model.num_pieces
    )


def _vocab(out: Path, init: Path | None) -> Vocab:
    """The run's vocabulary, made once: that of `init` with what the op set has beyond it, so that old ids stay."""
    path = out / "vocab.json"
    if not path.exists():
        now = Vocab.from_opset(OPSET)
        old = init / "vocab.json" if init is not None else path
        (Vocab.load(old).extended(now.tokens) if old.exists() else now).save(path)
    return Vocab.load(path)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m genmad.training", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--words", type=Path, help="folder that `python -m genmad.training.word_vectors` wrote")
    parser.add_argument("--init", type=Path, help="run, or saved model, whose weights to start from")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.corpus or arguments.out / "corpus"
    if not (folder / "dataset_info.json").exists():
        build_corpus(config, folder)
    records = corpus.load(folder, "train")
    pieces = arguments.out / "prompt.model"
    if not pieces.exists() and arguments.init is not None:
        shutil.copy(arguments.init / "prompt.model", pieces)
    elif not pieces.exists():
        train_text(records, config).save(pieces)
    if arguments.words is not None:
        shutil.copy(arguments.words / WORD_LIST, arguments.out / WORD_LIST)
    vocab = _vocab(arguments.out, arguments.init)
    reader = GraphReader(vocab, PromptTokenizer.load(pieces), OPSET)
    from genmad.training.loop import train

    grammar = ScriptGrammar(vocab=vocab, opset=OPSET)
    result = train(
        config, records, reader, grammar, arguments.out, resume=arguments.resume, init=arguments.init,
        words=arguments.words, report=say,
    )  # fmt: skip
    say(f"done: {result.steps} steps in {result.seconds:.0f} s; last {result.last}")


if __name__ == "__main__":
    main()
