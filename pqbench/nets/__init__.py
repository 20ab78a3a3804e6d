"""What several packages do to torch networks: checkpoints and small repairs of layers."""
