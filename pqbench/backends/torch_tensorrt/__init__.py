"""Torch-TensorRT: a PyTorch network whose parts are TensorRT engines."""
