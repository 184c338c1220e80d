"""GenMAD: edit and generate neural network architectures with a graph transformer, from a sentence.

Importing this package loads neither torch nor numpy: the public names below are looked up when first used.

>>> import genmad
>>> "load" in dir(genmad)
True
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmad.ir import Graph, GraphBuilder, GraphDelta
    from genmad.session import Architecture, load

__version__ = "0.1.0"
__all__ = ["Architecture", "Graph", "GraphBuilder", "GraphDelta", "__version__", "load"]

# In a clone, `tokenizer/`, `training/`, `sampling/` and `configs/` lie beside this folder, not in it.
_CLONE = Path(__file__).resolve().parent.parent
if (_CLONE / "pyproject.toml").is_file() and (_CLONE / "tokenizer" / "__init__.py").is_file():
    __path__.append(str(_CLONE))

_HOME_OF = {
    "Architecture": "genmad.session",
    "Graph": "genmad.ir",
    "GraphBuilder": "genmad.ir",
    "GraphDelta": "genmad.ir",
    "load": "genmad.session",
}


def __getattr__(name: str) -> object:
    """Load the room that holds a public name, on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'genmad' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name the lazy attributes too, so that completion finds them."""
    return sorted({*globals(), *__all__})
