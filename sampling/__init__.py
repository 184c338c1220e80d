"""The sampler: scripts decoded under the grammar, and the editor that users call."""

from typing import TYPE_CHECKING, Any

if __name__ != "genmad.sampling":
    raise ImportError(f"this folder is the package genmad.sampling, got {__name__!r}: write 'import genmad.sampling'")

if TYPE_CHECKING:
    from genmad.sampling.editor import Editor, Proposal, Reading

__all__ = ["Editor", "Proposal", "Reading"]


def __getattr__(name: str) -> Any:
    """Loads torch only when a name is used."""
    if name in __all__:
        from genmad.sampling import editor

        return getattr(editor, name)
    raise AttributeError(f"module 'genmad.sampling' has no attribute {name!r}")
