"""PyTorch, TorchScript and torch.compile."""
