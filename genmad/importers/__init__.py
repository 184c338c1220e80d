"""Where a graph comes from: torch modules, ONNX files, transformers models."""
