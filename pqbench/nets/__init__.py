"""What several rooms do to torch networks: checkpoints and small repairs of layers."""
