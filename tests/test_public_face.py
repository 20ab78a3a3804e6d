from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pqbench
from pqbench.app.arguments import prepare
from pqbench.core.errors import ConfigError

HEAVY = ("numpy", "torch", "hydra", "omegaconf", "mlflow", "pandas", "onnx", "openvino", "pydantic")


def imported_by(code: str) -> set[str]:
    """Top packages that a fresh interpreter has imported after some code."""
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.partition(".")[0] for name in out.stdout.split()}


def test_import_pqbench_imports_nothing() -> None:
    # What the interpreter itself brings (a development install, say) is not ours.
    ours = imported_by("import pqbench") - imported_by("pass")
    assert ours <= {"pqbench", "typing", "_typing"}


@pytest.mark.parametrize("name", ["Step", "Backend", "Dataset"])
def test_a_contract_imports_nothing_but_numpy(name: str) -> None:
    assert imported_by(f"from pqbench import {name}") & set(HEAVY) == {"numpy"}


def test_each_public_name_is_what_the_type_checker_sees() -> None:
    source = Path(pqbench.__file__).read_text(encoding="utf-8")
    guarded = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    homes = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert list(homes) and sorted(homes) == pqbench.__all__
    for name, module in homes.items():
        assert getattr(pqbench, name) is vars(sys.modules[str(module)])[name]
    assert set(pqbench.__all__) <= set(dir(pqbench))


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Stepp'"):
        _ = pqbench.Stepp


def test_unfinished_completion_is_refused_with_the_line_to_type() -> None:
    with pytest.raises(ConfigError, match="install=bash"):
        prepare(["--shell-completion"])
    assert prepare(["--shell-completion", "install=bash"])
