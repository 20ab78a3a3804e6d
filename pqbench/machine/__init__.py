"""The machine: CPU, GPU, software, the lock of a device and what else uses it."""
