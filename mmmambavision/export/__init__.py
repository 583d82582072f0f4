"""Networks of this package as ONNX files."""

__all__ = ['check', 'contract', 'onnx', 'parts']
