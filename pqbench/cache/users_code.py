"""The user's own code that a configuration names: every module of it, found without importing it.

From the modules that ``_target_`` keys and dotted names speak of, imports are followed through the
syntax trees. What lies in ``site-packages`` or came with Python is named by its version instead.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pqbench.core.files import content_sha256

_DOTTED = re.compile(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)+")
_IMPORTABLE = re.compile(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)*")
_CODE = (".py", *importlib.machinery.EXTENSION_SUFFIXES)
_OURS = ("pqbench", "hydra_plugins")
_NOT_CODE = ("__pycache__", "site-packages", "node_modules")
_ABOVE = 3


def users_code(arguments: Any) -> dict[str, str]:
    """SHA-256 of every source file of the user's own that ``arguments`` make run.

    Args:
        arguments: Any nesting of mappings and lists. A string such as ``package.module.Class``
            names code wherever it stands: under ``_target_``, as a task, in a list.

    Returns:
        By the file's path below the folder it is imported from (``package/module.py``); empty
        where only pqbench and installed libraries are named.
    """
    importlib.invalidate_caches()
    found: dict[str, str] = {}
    waiting: dict[str, Path | None] = {_top(text): None for text in _names(arguments)}
    seen = set(_OURS)
    while left := sorted(set(waiting) - seen):
        name = left[0]
        seen.add(name)
        for path, shown in _sources(name, waiting[name]):
            sha256 = content_sha256(path)
            found[shown] = sha256
            if path.suffix == ".py":
                for other in _imports_of(str(path), sha256):
                    waiting.setdefault(other, path)
    return dict(sorted(found.items()))


def _top(dotted: str) -> str:
    return re.split("[.:]", dotted)[0]


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if _DOTTED.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key == "_target_" and isinstance(item, str):
                yield item
            yield from _names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)


def _sources(name: str, importer: Path | None) -> list[tuple[Path, str]]:
    """Files of a top-level module or package of the user's, each with its path as shown.

    Args:
        name: As it is imported.
        importer: The file that imports it; what is beside it, or beside a folder above, counts
            where Python's path does not have it (yet: code may add to the path as it runs).
    """
    if name in sys.stdlib_module_names:
        return []
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None:
        folders = list(importer.parents[:_ABOVE]) if importer is not None else []
        found = [f / name for f in folders if (f / name / "__init__.py").is_file()]
        files = [f / f"{name}.py" for f in folders if (f / f"{name}.py").is_file()]
        return _below(found[0]) if found else [(file, file.name) for file in files[:1]]
    packages = [Path(p) for p in spec.submodule_search_locations or ()]
    if not packages and spec.origin:
        path = Path(spec.origin)
        return [(path, path.name)] if path.name.endswith(_CODE) and not _is_installed(path) else []
    return [item for package in packages for item in _below(package)]


def _below(package: Path) -> list[tuple[Path, str]]:
    """Every source file of a package, unless it is installed."""
    if _is_installed(package / "x"):
        return []
    found = []
    for where, folders, names in os.walk(package):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in _NOT_CODE)
        found += [Path(where, n) for n in sorted(names) if n.endswith(_CODE)]
    return [(path, path.relative_to(package.parent).as_posix()) for path in found]


@functools.lru_cache(maxsize=4096)
def _imports_of(path: str, sha256: str) -> frozenset[str]:
    """Top-level names that a source file imports anywhere in it; none if it is no Python."""
    del sha256  # names the content: the file is read again once it differs
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError, OSError):
        return frozenset()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {_top(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(_top(node.module))
        elif isinstance(node, ast.Call):  # importlib.import_module("my_layers")
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            texts = [a.value for a in arguments if isinstance(a, ast.Constant)]
            names = [t for t in texts if isinstance(t, str) and _IMPORTABLE.fullmatch(t)]
            if "import" in ast.unparse(node.func):
                found |= {_top(name) for name in names}
        elif isinstance(node, ast.Constant):  # a name that may be looked up as the code runs
            text = node.value
            found |= {_top(text)} if isinstance(text, str) and _DOTTED.fullmatch(text) else set()
    return frozenset(found)


def _is_installed(file: Path) -> bool:
    """Whether a source file came with Python or by a package manager, and so has a version."""
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    return file.is_relative_to(Path(sysconfig.get_path("stdlib")))
