"""MkDocs hook: adds the pages that :mod:`docs_pages` makes from the source."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import docs_pages  # noqa: E402

WIDE = (
    *("predecessors/", "models.md", "golden.md", "compression_measured.md", "comparison.md"),
    "options/model.md",
)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for name, made in docs_pages.pages().items():
        files.append(File.generated(config, name, content=made()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Give wide tables the room of the table of contents."""
    if page.file.src_uri.startswith(WIDE):
        page.meta.setdefault("hide", ["toc"])
    return markdown
