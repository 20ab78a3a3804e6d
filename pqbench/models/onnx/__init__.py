"""A user's own ONNX file as the source model, of whatever exporter."""
