"""Turns names of a graph, which may be any text, into Python identifiers and comments."""

import builtins
import keyword
import re
from collections.abc import Iterable
from functools import cache

MODULE_NAMES = frozenset({"torch", "nn", "F", "math", "self", "device", "load", "Tensor", "Scope", "BatchNorm"})
# Builtins that expressions use; the others may be hidden by an argument, which keeps the name of its input.
_USED = frozenset({"bool", "dict", "float", "int", "len", "list", "max", "min", "range", "slice", "super", "tuple"})
_RESERVED = MODULE_NAMES | frozenset(keyword.kwlist) | _USED
_BUILTINS = frozenset(dir(builtins))


def snake(text: str) -> str:
    """An identifier close to `text`: ASCII letters, digits and single underscores."""
    word = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", text)).strip("_").lower()
    return f"v{word}" if not word or word[0].isdigit() else word


def camel(text: str) -> str:
    """A class name close to `text`: `gpt2_layer` gives `Gpt2Layer`."""
    word = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", text))
    return f"Block{word}" if not word or word[0].isdigit() else word


def quote(text: str) -> str:
    """`text` as a string literal, in double quotes where that needs no escapes."""
    return f'"{text}"' if re.fullmatch(r"[\w.:/-]*", text, re.ASCII) else repr(text)


def comment(text: str) -> str:
    """`text` without anything that could end a comment, a docstring or a line."""
    return re.sub(r"[^A-Za-z0-9_.,\[\]()*+@:/ -]", "_", text)


class Names:
    """Hands out identifiers, each once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {*_RESERVED, *taken}

    def fresh(self, word: str, avoid: frozenset[str] = _BUILTINS) -> str:
        """`word`, or `word_1`, `word_2` ... when it is taken."""
        name, count = word, 0
        while name in self._taken or name in avoid:
            count += 1
            name = f"{word}_{count}"
        self._taken.add(name)
        return name

    def argument(self, name: str) -> str:
        """An argument name: the input's own where Python allows it, so that callers may pass it by name."""
        usable = name.isascii() and name.isidentifier() and not name.startswith("__")
        return self.fresh(name if usable else snake(name), avoid=frozenset())

    def copy(self) -> "Names":
        return Names(self._taken)


@cache
def module_attributes() -> frozenset[str]:
    """Names that nn.Module and its containers use themselves, so that no child may be reached by them."""
    from torch import nn

    return frozenset(dir(nn.Module())) | frozenset(dir(nn.ModuleDict())) | frozenset(dir(nn.ModuleList()))


def is_plain_name(name: str) -> bool:
    """Whether `self.<name>` may stand in source for a child of that name."""
    usable = name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")
    return usable and name not in module_attributes()


def reach(expression: str, kind: str, name: str, table: str) -> str:
    """Expression of a child of a `scope`, `list` or `dict`; `table` (`_modules` ...) holds it if it is no attribute."""
    if kind == "list":
        return f"{expression}[{name}]"
    if kind == "dict":
        return f"{expression}[{quote(name)}]"
    return f"{expression}.{name}" if is_plain_name(name) else f"{expression}.{table}[{quote(name)}]"
