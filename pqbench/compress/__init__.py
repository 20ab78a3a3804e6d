"""Compression: one module per tool; ``recipe`` composes them and checks their order."""
