"""Records that pqbench wrote at commit 50ff054, in version 1 of the format."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("version_1")
