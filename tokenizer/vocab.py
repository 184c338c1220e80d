"""The vocabulary shared by graph tokens and edit scripts. Built from the op set once and saved in every checkpoint."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from genmad.ir.diagnostics import Diagnostic, GraphError
from genmad.ir.opdef import OpDef

READINGS = ("branch", "convert", "insert", "remove", "duplicate", "replace", "resize", "adapt", "connect", "complete")
REFUSALS = ("no_such_target", "not_divisible", "not_applicable", "not_understood", "already_so")
MAX_ADDED = 32
MAX_SLOTS = 12

# An op that the vocabulary of a checkpoint does not hold.
UNKNOWN_OP = "<unk>"
_STRUCTURE = ("<pad>", "<bos>", "<eos>", "<mask>", UNKNOWN_OP, "INPUT", "OUTPUT", "CALL")
_STEPS = (
    "AT", "TO", "ALL", "DO", "SET", "REPLACE", "ADD", "ADD_CALL", "COPY", "NEW", "REWIRE", "USES", "REMOVE", "END",
    "ABORT", "SAME",
)  # fmt: skip
_VALUES = ("NONE", "TRUE", "FALSE", "OLD", "CHANNELS", "HEAD_DIM", "LIKE", "TIMES", "OVER", "END_NUM")
_SEQUENCE = ("BLOCK", "LINK", "LIST", "END_LIST", "MINUS", "FLOAT", "TEXT", "DIM", "TIE", "END_NODE")


@dataclass(frozen=True, kw_only=True)
class Vocab:
    """Token strings in id order.

    Attributes:
        tokens: id -> token. Families are told apart by prefix: `op:Linear`, `attr:bias`, `str:tanh`, `digit:7`,
            `new:0`, `out:1`, `slot:2`, `reading:branch`, `refuse:not_divisible`, `byte:65`; the rest is bare.
    """

    tokens: tuple[str, ...]
    _ids: Mapping[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        ids = {token: i for i, token in enumerate(self.tokens)}
        if len(ids) != len(self.tokens):
            raise ValueError("a vocabulary holds each token once")
        object.__setattr__(self, "_ids", ids)

    @staticmethod
    def from_opset(opset: Mapping[str, OpDef]) -> "Vocab":
        """Every op, attribute and attribute choice of the op set, in a fixed order."""
        ops = [f"op:{name}" for name in opset]
        attrs = dict.fromkeys(f"attr:{a.name}" for op in opset.values() for a in op.attrs)
        choices = dict.fromkeys(f"str:{c}" for op in opset.values() for a in op.attrs for c in a.choices)
        return Vocab(
            tokens=(
                *_STRUCTURE, *_STEPS, *_VALUES, *_SEQUENCE,
                *(f"digit:{d}" for d in range(10)), *(f"new:{k}" for k in range(MAX_ADDED)),
                *(f"out:{i}" for i in range(MAX_SLOTS)), *(f"slot:{i}" for i in range(MAX_SLOTS)),
                *(f"reading:{r}" for r in READINGS), *(f"refuse:{r}" for r in REFUSALS),
                *(f"byte:{b}" for b in range(256)), *ops, *attrs, *choices,
            )
        )  # fmt: skip

    def extended(self, tokens: Iterable[str]) -> "Vocab":
        """The same vocabulary with further tokens behind; old ids stay."""
        return Vocab(tokens=(*self.tokens, *(t for t in dict.fromkeys(tokens) if t not in self._ids)))

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def id(self, token: str) -> int:
        """Raises `GraphError` for a token that the vocabulary lacks."""
        if token not in self._ids:
            fix = "use a checkpoint trained with this op set, or extend its vocabulary"
            raise GraphError(Diagnostic(where="vocabulary", got=f"token {token!r}", expected="a known token", fix=fix))
        return self._ids[token]

    def family(self, prefix: str) -> tuple[int, ...]:
        """Ids of the tokens `prefix:*`."""
        return self._families[prefix]

    @cached_property
    def _families(self) -> Mapping[str, tuple[int, ...]]:
        table: dict[str, list[int]] = {}
        for i, token in enumerate(self.tokens):
            prefix, colon, _ = token.partition(":")
            if colon:
                table.setdefault(prefix, []).append(i)
        return {prefix: tuple(ids) for prefix, ids in table.items()}

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"version": 1, "tokens": self.tokens}, indent=0), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "Vocab":
        """Raises `GraphError` when the file is not a vocabulary."""
        data = json.loads(path.read_text(encoding="utf-8"))
        tokens = data.get("tokens") if isinstance(data, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
            raise GraphError(Diagnostic(where=str(path), got="no token list", expected="a vocabulary saved by GenMAD"))
        return Vocab(tokens=tuple(tokens))
