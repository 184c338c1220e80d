"""What English words mean, distilled from a pretrained sentence encoder into a small table.

`python -m genmad.training.word_vectors ENCODER_FOLDER OUT` reads a sentence encoder that transformers can load from a
folder (the shipped table comes from all-MiniLM-L6-v2, Apache-2.0), encodes each whole word of its vocabulary alone, and
keeps the first principal components. Words that no training sentence holds then still lie near words that one does.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

SIZE = 64
MAX_WORDS = 16_000


def whole_words(vocab: dict[str, int]) -> list[str]:
    """Lower-case words of a word-piece vocabulary, the frequent ones first."""
    order = sorted(vocab, key=lambda word: vocab[word])
    words = [w for w in order if w.isascii() and w.isalpha() and w.islower() and len(w) >= 2]
    return words[:MAX_WORDS]


@torch.no_grad()
def encode_words(folder: Path, words: list[str], batch: int = 256) -> np.ndarray:
    """[W, D] mean of the last hidden states of each word alone, of length 1."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for start in range(0, len(words), batch):
        inputs = tokenizer(words[start : start + batch], return_tensors="pt", padding=True)
        hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        rows.append(torch.nn.functional.normalize(pooled, dim=-1).numpy())
    return np.concatenate(rows)


def reduce(vectors: np.ndarray, size: int = SIZE) -> np.ndarray:
    """[W, size] principal components, of unit length, with a row of zeros in front for unknown words."""
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    small = centred @ axes[:size].T
    small /= np.linalg.norm(small, axis=1, keepdims=True) + 1e-9
    return np.concatenate([np.zeros((1, size), small.dtype), small])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import AutoTokenizer

    words = whole_words(AutoTokenizer.from_pretrained(arguments.encoder).get_vocab())
    table = reduce(encode_words(arguments.encoder, words)).astype(np.float16)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file({"vectors": table}, arguments.out / "words.safetensors")
    (arguments.out / "words.txt").write_text("\n".join(words), encoding="utf-8")


if __name__ == "__main__":
    main()
