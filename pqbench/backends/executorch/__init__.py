"""ExecuTorch on the CPU, by XNNPACK."""
