"""Run a notebook's cells, one after the other, and keep what each prints or ends with.

``python scripts/notebook.py docs/records.ipynb``, given where the folder ``outputs`` of a sweep
lies, runs that notebook and writes what came out into it. Jupyter is not needed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any


def run_cells(notebook: dict[str, Any]) -> list[str]:
    """What each code cell prints, with the text of its last expression, as Jupyter shows it.

    Args:
        notebook: Version 4 of the format.

    Raises:
        Exception: Whatever a cell raises.
    """
    space: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]), f"cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(tree, f"cell {number}", "exec"), space)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), space)
                if value is not None:
                    print(value)
        shown.append(out.getvalue())
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook", type=Path)
    path: Path = parser.parse_args().notebook
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, text) in enumerate(zip(cells, run_cells(notebook), strict=True), start=1):
        lines = text.splitlines(keepends=True)
        cell["execution_count"] = number
        cell["outputs"] = (
            [{"output_type": "stream", "name": "stdout", "text": lines}] if text else []
        )
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
