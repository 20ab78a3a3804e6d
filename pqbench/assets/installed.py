"""Where an installed package lies; it is not imported to find out."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, or None.

    Links are followed: an environment that is reached over two paths (a linked ``.venv``) is one,
    and what is named after its files has one name.

    Args:
        package: As it is imported, a top-level name.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).resolve().parent
