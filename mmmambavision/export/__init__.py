"""Networks of this package as ONNX files."""
