"""The content-addressed cache: entries checked when read, a size limit, and nothing left behind.

An entry is a folder of files under the hash of what made it, sealed with the hash of every file.
``python -m pqbench.cache list|verify|prune`` shows what is there, checks every file, and removes
what was used longest ago.
"""

from pqbench.cache.store import GIB, Cache, Entry

__all__ = ["GIB", "Cache", "Entry"]
