"""Measure: latency, memory, energy, size and accuracy, one module per family of figures."""
