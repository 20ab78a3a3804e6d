from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
from probe_wheel import write_wheel

from pqbench import runtimes
from pqbench.assets import converters
from pqbench.assets.converters import LITERT, Environment, required, run_program
from pqbench.assets.install_converters import install
from pqbench.core.errors import UnavailableError, UnsupportedError

SMALL = Environment("small", "a probe", ("pqbench-probe==1.0",), ("pqbench_probe",), "1 MB")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and two packages that pip can have without a network."""
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "pqbench-probe", "1.0", "VALUE = 7\n")
    write_wheel(wheels, "filelock", "0.1", "VALUE = 8\n")
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
    done = run_program(SMALL, program, ["given"])
    assert (done.returncode, done.stdout) == (0, "7 given\n")
    install(SMALL, said.append)
    assert said[-1] == f"small: is there already, in {folder}"


def test_install_finds_behind_it_what_it_does_not_have_itself(cache: Path) -> None:
    other = replace(
        SMALL,
        name="other",
        requirements=("filelock==0.1",),
        modules=("filelock",),
        behind=("numpy",),
    )
    install(other, lambda _: None)
    assert other.versions() == {"filelock": "0.1", "numpy": np.__version__}
    program = cache / "program.py"
    program.write_text("import filelock, numpy; print(filelock.VALUE, numpy.__file__)")
    done = run_program(other, program, [])
    assert done.stdout == f"8 {Path(np.__file__).resolve()}\n", done.stderr
    assert filelock.FileLock  # pqbench's own is still the other one
    alone = replace(other, name="alone", behind=())
    install(alone, lambda _: None)
    assert "No module named 'numpy'" in run_program(alone, program, []).stderr


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


def test_environment_moves_with_its_pins_and_with_what_is_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind = replace(SMALL, behind=("numpy",))
    before = behind.folder
    assert before != SMALL.folder
    monkeypatch.setattr(converters, "_version", lambda name: "1.0")
    assert behind.folder != before
    assert replace(SMALL, requirements=("pqbench-probe==1.1",)).folder != SMALL.folder
    assert sys.version.split()[0] and SMALL.folder == replace(SMALL).folder
