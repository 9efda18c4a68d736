"""Makes ONNX models small."""
