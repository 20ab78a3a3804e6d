"""What is installed is what is in the repository: every module, every YAML file, the weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from a copy of the sources, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pqbench", "conf", "hydra_plugins"):
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, *build, "--wheel-dir", str(folder), str(source)], check=True)
    [wheel] = folder.glob("pqbench-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_every_module_yaml_file_and_checkpoint(unpacked: Path) -> None:
    package = REPOSITORY / "pqbench"
    expected = {p.relative_to(package) for p in package.rglob("*.py")}
    expected |= {p.relative_to(package) for p in (package / "models" / "bundled").glob("*.*")}
    expected |= {Path("conf") / p.relative_to(REPOSITORY / "conf") for p in conf_files()}
    missing = {p for p in expected if not (unpacked / "pqbench" / p).is_file()}
    assert not missing
    assert (unpacked / "hydra_plugins" / "pqbench_search" / "__init__.py").is_file()


def conf_files() -> list[Path]:
    return list((REPOSITORY / "conf").rglob("*.yaml"))


def test_installed_package_answers_outside_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r}); sys.argv = ['pqbench', '--help'];"
        "import pqbench; assert 'site' in pqbench.__file__, pqbench.__file__;"
        "from pqbench.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nncf_int8" in done.stdout


def test_bundled_checkpoints_are_small_and_carry_their_card() -> None:
    folder = REPOSITORY / "pqbench" / "models" / "bundled"
    weights = sorted(folder.glob("*.safetensors"))
    assert weights
    assert sum(p.stat().st_size for p in weights) <= 10 * 1000 * 1000
    for path in weights:
        assert path.with_suffix(".json").is_file()


def test_repository_holds_one_lock_for_both_runtimes() -> None:
    """onnxruntime and onnxruntime-gpu overwrite each other's files: never both on one machine."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    found = {line.split("==")[0]: line for line in lines if line.startswith("onnxruntime")}
    assert set(found) == {"onnxruntime", "onnxruntime-gpu"}
    assert all(";" in line for line in found.values())
