"""The house: no circles, and in the root only what one can type."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pqbench

ROOT = Path(pqbench.__file__).parent
TYPED = {
    *(
        "__init__",
        "__main__",
        "bundle",
        "compare",
        "layers",
        "plan",
        "reproduce",
        "runtimes",
        "sync",
    )
}


def test_root_holds_only_what_one_can_type() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == TYPED


def test_modules_import_each_other_without_circles() -> None:
    """Those of type annotations count as well."""
    grimp = pytest.importorskip("grimp", reason="comes with import-linter")
    graph = grimp.build_graph("pqbench")
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 5000))
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for target in imports[module]:
                visit(target, (*way, module))
            done.add(module)

    for module in sorted(imports):
        visit(module, ())
