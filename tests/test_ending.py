"""However it ends: the documented exit code, one line, and never a success that was none."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_sweep as tiny
from hydra._internal.callbacks import Callbacks
from omegaconf import OmegaConf
from record_factory import make_record

from pqbench import __main__ as entry
from pqbench.app.callbacks import Results
from pqbench.app.outcome import OUTCOME
from pqbench.app.sweep_state import LOCK, Sweep, find_earlier
from pqbench.app.words import COMMANDS
from pqbench.core.errors import DataError
from pqbench.core.margins import Margins
from pqbench.core.terminal import INTERRUPTED, UNWRITABLE, exit_code, printable
from pqbench.report import __main__ as report
from pqbench.tracking.settings import TrackingSettings


def program(text: str, **extra: str) -> subprocess.Popen[str]:
    """A program that opens its streams as every command of pqbench does."""
    text = f"from pqbench.core.terminal import open_streams\nopen_streams()\n{text}"
    return subprocess.Popen(
        [sys.executable, "-c", text],
        env={**os.environ, **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding=extra.get("PYTHONIOENCODING", "utf-8"),
    )


def finish(folder: Path) -> int:
    """End a run in Hydra's own way and give the exit code."""
    make_record("m", "ort").save(folder)
    config = OmegaConf.create(
        {
            "claim": OmegaConf.structured(Margins()),
            "tracking": OmegaConf.structured(TrackingSettings(enabled=False)),
            "outputs": str(folder),
            "hydra": {"runtime": {"output_dir": str(folder)}},
        }
    )
    callbacks = Callbacks()
    callbacks.callbacks.append(Results())
    OUTCOME.exit_code = 0
    try:
        callbacks.on_run_end(config)
    except SystemExit as end:
        OUTCOME.exit_code = int(end.code or 0)
    return OUTCOME.exit_code


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left"),
        (DataError("a table cannot be made"), "a table cannot be made"),
        (RuntimeError("a defect"), "RuntimeError: a defect"),
    ],
)
def test_what_a_callback_raises_ends_the_program_with_4(
    error: Exception,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    assert finish(tmp_path) == 0
    monkeypatch.setattr("pqbench.report.write.write_report", full)
    assert finish(tmp_path) == 4
    assert words in capsys.readouterr().err


def test_full_disk_leaves_no_empty_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path)
    table = tmp_path / "report" / "table.csv"
    before = table.read_text()
    real = Path.write_text

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        if "table.csv" in path.name:
            path.write_bytes(b"")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    assert finish(tmp_path) == 4
    assert table.read_text() == before
    assert not list(table.parent.glob(".table*"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_table_reaches_a_terminal_of_any_encoding(encoding: str) -> None:
    text = (
        "from rich.console import Console\nfrom rich.table import Table\n"
        "table = Table('model · recipe', 'speedup'); table.add_row('1.5 \\xd7', '≥ 2 Ω \\x1b[2J')\n"
        "Console().print(table); print('end')"
    )
    process = program(text, PYTHONIOENCODING=encoding)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "end" in output
    assert ("model - recipe" if encoding == "ascii" else "model · recipe") in output


def test_reader_that_leaves_is_no_error() -> None:
    process = program(
        "import logging, sys\nlogging.basicConfig(stream=sys.stdout, level=20)\n"
        "for n in range(50000): print(n); logging.info('n')\n"
        "open(2, 'w').write('went on')"
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == "went on"
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ·\n\tline", "plain ·\n\tline"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        (os.fsdecode(b"caf\xe9.png"), "caf\\xe9.png"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
    ],
)
def test_controls_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_sweep_that_cannot_be_locked_is_not_gone_on_with(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "theirs", ["model=a"], 2)
    sweep._lock.release()
    assert find_earlier(tmp_path, ["model=a"], finished_too=False) == tmp_path / "theirs"
    (tmp_path / "theirs" / LOCK).unlink(missing_ok=True)
    (tmp_path / "theirs" / LOCK).mkdir()  # as a folder that is somebody else's: an OSError
    assert find_earlier(tmp_path, ["model=a"], finished_too=False) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compress=[ort_int8,prune]"], "prune after ort_int8"),
        (["compress=nncf_int8", "backend=torch"], "nncf_int8"),
        (["tracking.uri=mlruns"], "tracking.uri=mlruns"),
        (["tracking.uri=mlruns", "seed=1,2", "-m"], "tracking.uri=mlruns"),
        (["tracking.uri=http://host:port"], "tracking.uri"),
        (["tracking.uri=htp://host:5000"], "tracking.uri"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_before_anything_is_made(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "conf").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "pqbench", *arguments],
        cwd=tmp_path,
        env=tiny.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]


@pytest.mark.parametrize(("end", "code"), [("7", 7), ("None", 0), ("'words'", 1)])
def test_command_writes_all_and_does_what_is_registered_before_it_ends(
    tmp_path: Path, end: str, code: int
) -> None:
    program = f"""
import atexit, sys, threading, time
import pqbench.__main__ as entry

class Slow:
    def __del__(self):
        print("freed")

kept = Slow()

def late():
    time.sleep(0.2)
    print("thread")

def main():
    atexit.register(print, "registered")
    threading.Thread(target=late).start()
    sys.stdout.write("no line end")
    sys.exit({end})

entry.main = main
entry.command()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    shown = "no line endthread\nregistered\n"
    assert done.stdout == (shown if code != 1 else f"{shown}freed\n")
    assert done.stderr == ("words\n" if code == 1 else "")


def test_exit_code_of_an_interrupted_command_is_130_and_one_line() -> None:
    process = program(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored\n"
        "from pqbench.core.terminal import exit_code\n"
        "import pqbench.report.__main__ as report\n"
        "def found(*_):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "report._found = found\n"
        "sys.exit(exit_code(lambda: report.main(['anywhere'])))"
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (INTERRUPTED, "stopped.")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "testing"])
def test_every_command_ends_by_exit_code_when_run_as_a_module(name: str) -> None:
    found = importlib.util.find_spec(f"pqbench.{name}")
    assert found is not None and found.origin is not None
    path = Path(found.origin)
    path = path.with_name("__main__.py") if path.name == "__init__.py" else path
    assert path.read_text(encoding="utf-8").rstrip().endswith("sys.exit(exit_code(main))")


def test_pqbench_command_that_is_interrupted_gives_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pqbench.plan.main", main)
    monkeypatch.setattr(sys, "argv", ["pqbench", "plan"])
    assert entry._command("plan", []) == INTERRUPTED
    assert capsys.readouterr().err == "\nstopped.\n"


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EROFS])
def test_exit_code_of_a_command_that_cannot_write_is_4_and_one_line(
    kind: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise OSError(kind, os.strerror(kind), "out/table.md")

    assert exit_code(main) == UNWRITABLE
    said = capsys.readouterr().err
    assert said.startswith(f"error: out/table.md: {os.strerror(kind)}: free some space")
    assert said.count("\n") == 1


def test_exit_code_hides_no_other_error() -> None:
    def main() -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with pytest.raises(OSError, match="descriptor"):
        exit_code(main)


def test_report_on_a_full_disk_names_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_record().save(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pqbench.report.write.save_plots", full)
    with pytest.raises(OSError, match="No space left") as found:
        report.main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert found.value.filename == str(tmp_path / "out")
