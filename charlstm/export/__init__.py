"""Models for programs that are not charlstm."""

from .onnx_file import to_onnx

__all__ = ["to_onnx"]
