from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pqbench import runtimes
from pqbench.assets.converters import LITERT, Environment, install, required, run_converter
from pqbench.core.errors import UnavailableError, UnsupportedError

SMALL = Environment("small", ("pqbench-probe==1.0",), ("pqbench_probe",), "1 MB")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and one package that pip can have without a network."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    name, info = "pqbench_probe-1.0-py3-none-any.whl", "pqbench_probe-1.0.dist-info"
    with zipfile.ZipFile(wheels / name, "w") as wheel:
        wheel.writestr("pqbench_probe.py", "VALUE = 7\n")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: pqbench-probe\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"pqbench_probe.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return tmp_path / "cache"


def test_install_makes_an_environment_once_that_runs_a_program(cache: Path) -> None:
    """Where an attempt was cut off it begins anew."""
    said: list[str] = []
    SMALL.folder.mkdir(parents=True)
    (SMALL.folder / "half").touch()
    folder = install(SMALL, said.append)
    assert not (folder / "half").exists()
    assert folder.is_relative_to(cache / "pqbench" / "runtimes")
    assert SMALL.ready() and SMALL.versions() == {"pqbench-probe": "1.0"}
    program = cache / "program.py"
    program.write_text("import sys, pqbench_probe; print(pqbench_probe.VALUE, sys.argv[1])")
    done = run_converter(SMALL, program, ["given"])
    assert (done.returncode, done.stdout) == (0, "7 given\n")
    install(SMALL, said.append)
    assert said[-1] == f"small: is there already, in {folder}"


def test_install_removes_what_cannot_be_imported(cache: Path) -> None:
    broken = replace(SMALL, name="broken", modules=("pqbench_no_such_module",))
    with pytest.raises(UnsupportedError, match="No module named 'pqbench_no_such_module'"):
        install(broken, lambda _: None)
    assert not broken.folder.exists()


def test_install_without_a_network_says_so_in_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(runtimes, "ENVIRONMENTS", {"small": SMALL})
    assert runtimes.main(["install", "small"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("pqbench: the package index cannot be reached")
    assert told.count("\n") == 1
    assert not SMALL.folder.exists()


def test_install_says_which_package_cannot_be_had(cache: Path) -> None:
    other = replace(SMALL, requirements=("pqbench-probe==2.0",))
    with pytest.raises(UnavailableError, match=r"pip cannot install it: ERROR: .*probe==2\.0"):
        install(other, lambda _: None)


def test_environment_that_is_missing_is_said_with_the_remedy(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnavailableError) as caught:
        required(LITERT)
    assert caught.value.hint == "python -m pqbench.runtimes install litert"
    assert runtimes.main(["list"]) == 0
    assert "not here: python -m pqbench.runtimes install litert" in capsys.readouterr().out


def test_environment_moves_with_its_pins() -> None:
    assert replace(SMALL, requirements=("pqbench-probe==1.1",)).folder != SMALL.folder
    assert sys.version.split()[0] and SMALL.folder == replace(SMALL).folder
