"""pqbench: which compression tool and which backend make a model smaller and faster, how sure."""

__version__ = "0.1.0"
