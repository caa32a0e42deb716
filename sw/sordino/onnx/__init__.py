"""ONNX files as modules of PyTorch (`sordino.load_onnx`)."""

from .importer import OnnxModel, load_onnx

__all__ = ["OnnxModel", "load_onnx"]
