"""The error of every lowering."""

from genmad.ops.shape_rules import LoweringError

__all__ = ["LoweringError"]
