"""Export detectors and segmentors to ONNX files."""

__all__ = ['check', 'contract', 'onnx', 'parts']
