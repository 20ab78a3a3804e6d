"""What Torch-TensorRT's source says of the few names that pqbench uses.

    python tests/helpers/torch_tensorrt_api.py UNPACKED_WHEEL...

reads the sources of unpacked wheels, without importing them (that needs a GPU), and writes
``torch_tensorrt_api.json`` beside this file. The doubles are made from it.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
ENGINE = ("torch_tensorrt/dynamo/runtime/_TorchTensorRTModule.py", "TorchTensorRTModule")
FUNCTIONS = {
    "compile": ("torch_tensorrt/_compile.py", "compile"),
    "trace": ("torch_tensorrt/dynamo/_tracer.py", "trace"),
    "dynamo.compile": ("torch_tensorrt/dynamo/_compiler.py", "compile"),
    "dynamo.Debugger": ("torch_tensorrt/dynamo/debug/_Debugger.py", "Debugger.__init__"),
    "engine": (ENGINE[0], f"{ENGINE[1]}.__init__"),
}
EXPORTS = {
    "dynamo": "torch_tensorrt/dynamo/__init__.py",
    "dynamo.runtime": "torch_tensorrt/dynamo/runtime/__init__.py",
}


def read(wheel: Path) -> dict[str, Any]:
    """Version, parameters of functions, members of the engine's module, exported names."""
    found: dict[str, Any] = {
        "version": _constant(wheel / "torch_tensorrt/_version.py", "__version__"),
        "parameters": {k: _parameters(wheel / f, name) for k, (f, name) in FUNCTIONS.items()},
        "members": _members(wheel / ENGINE[0], ENGINE[1]),
        "exports": {k: _imported(wheel / file) for k, file in EXPORTS.items()},
    }
    return found


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _find(file: Path, name: str) -> ast.AST:
    node: Any = _tree(file)
    for part in name.split("."):
        node = next(child for child in node.body if getattr(child, "name", None) == part)
    found: ast.AST = node
    return found


def _constant(file: Path, name: str) -> str:
    for node in _tree(file).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return str(ast.literal_eval(node.value))
    raise LookupError(name)


def _parameters(file: Path, name: str) -> list[str]:
    """Names in order; ``**kwargs`` as ``**``."""
    node: Any = _find(file, name)
    given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return [a for a in given if a != "self"] + (["**"] if node.args.kwarg else [])


def _members(file: Path, name: str) -> list[str]:
    """Methods of a class, and what its constructor sets."""
    node: Any = _find(file, name)
    methods = [f for f in node.body if isinstance(f, ast.FunctionDef)]
    names = {f.name for f in methods}
    for f in methods:
        if f.name == "__init__":
            for target in ast.walk(f):
                if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store):
                    names.add(target.attr)
    return sorted(n for n in names if not n.startswith("_") or n == "__init__")


def _imported(file: Path) -> list[str]:
    nodes = [n for n in ast.walk(_tree(file)) if isinstance(n, ast.ImportFrom | ast.Import)]
    return sorted(
        {(a.asname or a.name) for n in nodes for a in n.names if not a.name.startswith("_")}
    )


if __name__ == "__main__":
    FILE.write_text(json.dumps([read(Path(w)) for w in sys.argv[1:]], indent=1) + "\n")
