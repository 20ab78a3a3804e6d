"""Data sets, splits, and images prepared once for every backend."""
