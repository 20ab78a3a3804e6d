"""Write docs/compress.md from the declarations of the steps in conf/compress."""

from __future__ import annotations

from pathlib import Path

from pqbench.compress.table import markdown, shipped

REPOSITORY = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    page = REPOSITORY / "docs" / "compress.md"
    page.write_text(markdown(shipped(REPOSITORY / "conf")), encoding="utf-8")
    print(page)
