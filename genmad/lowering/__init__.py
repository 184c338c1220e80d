"""What a graph runs as: plain PyTorch and ONNX. Import the modules; they load torch or onnx, this does not."""

from genmad.ops.shape_rules import LoweringError

__all__ = ["LoweringError"]
