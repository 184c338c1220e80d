"""Prompts and names to SentencePiece ids, with the numbers and the words that also stand in the graph marked."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmad.tokenizer.numbers import spoken_numbers

PAD_ID, UNK_ID = 0, 1
MAX_PIECES = 96
WORD_LIST = "words.txt"
ORDINAL = 3
_WORD = re.compile(r"\d+|[A-Za-z][A-Za-z0-9]*(?:[._][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")
_PART = re.compile(r"\d+|[a-z]+")


def split_words(text: str) -> list[str]:
    """Words, numbers and punctuation; a dotted or underscored name stays one word."""
    return _WORD.findall(text)


def name_parts(name: str) -> list[str]:
    """Lower-case words and numbers of a module path: `model.layers.3.q_proj` -> model layers 3 q proj."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return _PART.findall(spaced.lower())


def _spaced(text: str) -> str:
    """The text with names taken apart, as `PromptTokenizer.pieces` reads it."""
    return " ".join(part for word in split_words(text) for part in name_parts(word) or [word])


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTokens:
    """A prompt as the model reads it. All tuples have one entry per piece.

    Attributes:
        ids: SentencePiece ids.
        numbers: the number, in digits or words, that a piece starts, else -1.
        marks: 0 a plain word, 1 a name that stands in the graph, 2 a name-like word that does not, `ORDINAL` a place.
        words: row of the word in the table of word vectors, 0 for an unknown one.
    """

    ids: tuple[int, ...]
    numbers: tuple[int, ...]
    marks: tuple[int, ...]
    words: tuple[int, ...]

    @property
    def number_values(self) -> dict[int, int]:
        """Piece position -> number."""
        return {i: n for i, n in enumerate(self.numbers) if n >= 0}


class PromptTokenizer:
    """A SentencePiece model with op and attribute names among its symbols."""

    def __init__(self, model: bytes, words: Iterable[str] = ()) -> None:
        """`model`: a SentencePiece model; `words`: those of the table of word vectors, from row 1 on."""
        import sentencepiece

        self._model = model
        self.words = tuple(words)
        self._rows = {word: row for row, word in enumerate(self.words, 1)}
        self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._cache: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    @property
    def all_pieces(self) -> tuple[str, ...]:
        """The pieces in id order."""
        return tuple(self._processor.id_to_piece(i) for i in range(len(self)))

    @staticmethod
    def train(sentences: Iterable[str], symbols: Iterable[str], *, vocab_size: int = 2000) -> "PromptTokenizer":
        """A unigram model over `sentences`; each of `symbols` (lower case) is one piece."""
        import io

        import sentencepiece

        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([_spaced(s) for s in sentences]),
            model_writer=out, vocab_size=vocab_size, model_type="unigram", split_digits=True, byte_fallback=False,
            character_coverage=1.0, hard_vocab_limit=False, pad_id=PAD_ID, unk_id=UNK_ID, bos_id=-1, eos_id=-1,
            user_defined_symbols=sorted({s.lower() for s in symbols}), num_threads=1, minloglevel=2,
        )  # fmt: skip
        return PromptTokenizer(out.getvalue())

    def pieces(self, word: str) -> tuple[int, ...]:
        """Ids of one word, number or module path."""
        if word not in self._cache:
            if len(self._cache) > 100_000:
                self._cache.clear()
            self._cache[word] = tuple(i for part in name_parts(word) or [word] for i in self._processor.encode(part))
        return self._cache[word]

    def encode(self, prompt: str, names: frozenset[str] = frozenset()) -> PromptTokens:
        """At most `MAX_PIECES` pieces. `names`: lower-case module names and paths that stand in the graph."""
        ids: list[int] = []
        numbers: list[int] = []
        marks: list[int] = []
        words: list[int] = []
        said = split_words(prompt)
        spoken = {number.start: number for number in spoken_numbers(said)}
        for at, word in enumerate(said):
            bare = word.lower()
            named = bare in names and not word.isdigit()
            mark = 1 if named else 2 if ("_" in bare or "." in bare) else 0
            number = spoken.get(at)
            for position, piece in enumerate(self.pieces(word)):
                starts = number is not None and position == 0
                ids.append(piece)
                numbers.append(number.value if number is not None and starts else -1)
                marks.append(ORDINAL if number is not None and starts and number.is_ordinal else mark)
                words.append(self._rows.get(bare, 0))
        if not ids:
            ids, numbers, marks, words = [UNK_ID], [-1], [0], [0]
        columns = {"ids": ids, "numbers": numbers, "marks": marks, "words": words}
        return PromptTokens(**{name: tuple(column[:MAX_PIECES]) for name, column in columns.items()})

    def save(self, path: Path) -> None:
        """Writes the model, and the words beside it as `words.txt`."""
        path.write_bytes(self._model)
        if self.words:
            (path.parent / WORD_LIST).write_text("\n".join(self.words), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "PromptTokenizer":
        """Reads the model and, where it is there, the word list beside it."""
        listed = path.parent / WORD_LIST
        words = listed.read_text(encoding="utf-8").split("\n") if listed.is_file() else ()
        return PromptTokenizer(path.read_bytes(), words)
