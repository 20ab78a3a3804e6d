"""Each guard proved by its absence: it is taken out of a copy, and what shows it must then fail.

The whole checkout is copied once; one guard at a time is edited out of the copy, and the test that
stands for it (with ``--rows``: the row of ``faults.py``) is run there. A guard whose test still
passes without it guards nothing. Unedited, every test must pass (``--whole`` shows it).

    python scripts/bench/faults/mutate.py [--only PATTERN] [--rows] [--whole]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 300
PARTS = ("pqbench", "conf", "hydra_plugins", "scripts", "tests", "pyproject.toml", "setup.cfg")


@dataclass(frozen=True)
class Guard:
    """One guard.

    Attributes:
        name: What it guards.
        file: Where it stands, below ``pqbench``.
        code: Its text, exactly once in the file.
        without: What stands there when it is taken out.
        test: The test that shows it, as pytest selects it.
        row: Pattern of the row of ``faults.py`` that shows it; empty if none does.
    """

    name: str
    file: str
    code: str
    without: str
    test: str
    row: str = ""


GUARDS = (
    Guard(
        "die with the owner, descendants too",
        "workers/guard.py",
        "        if owner_gone in ready:\n            kill_tree(worker)\n",
        "",
        "tests/test_guard.py -k takes_all",
        "children of its own",
    ),
    Guard(
        "orphans of a stage are buried",
        "workers/guard.py",
        "            buried = [_bury(child) for child in strays]\n",
        "            buried = [False for child in strays]\n",
        "tests/test_guard.py -k 'leaves_nothing and killed'",
        "a limited step that leaves children",
    ),
    Guard(
        "a log has a limit",
        "workers/guard.py",
        "    if size <= limit:\n        return\n",
        "    if size:\n        return\n",
        "tests/test_guard.py -k keeps_head",
        "prints 60 MB",
    ),
    Guard(
        "SIGTERM and SIGHUP stop",
        "core/interrupt.py",
        "            signal.signal(number, _on_end)\n",
        "            pass\n",
        "tests/test_guard.py -k scheduler",
        "SIGTERM|SIGHUP",
    ),
    Guard(
        "callbacks end the program",
        "app/outcome.py",
        "            try:\n                return method(*args, **kwargs)\n",
        "            return method(*args, **kwargs)\n            try:\n                pass\n",
        "tests/test_ending.py -k a_callback_raises",
        "an address that is none|disk full in the report",
    ),
    Guard(
        "a terminal without the characters",
        "core/terminal.py",
        "_Stream(stream.detach(), encoding, ERRORS, ",
        "_Stream(stream.detach(), encoding, 'strict', ",
        "tests/test_ending.py -k any_encoding",
        "ASCII",
    ),
    Guard(
        "a table is written whole or not at all",
        "report/write.py",
        "        write_text(path, text)\n",
        "        path.write_text(text)\n",
        "tests/test_ending.py -k full_disk",
    ),
    Guard(
        "a record's meaning is checked",
        "core/record/record.py",
        "        check(record)\n",
        "",
        "tests/test_damage.py",
    ),
    Guard(
        "a damaged journal is set aside",
        "tracking/journal.py",
        "        aside = set_aside(path)\n",
        "        raise\n",
        "tests/test_damage.py -k journal",
        "one bad byte in every journal",
    ),
    Guard(
        "addresses are masked",
        "core/secrets.py",
        '    text = _USER.sub(rf"\\g<1>{MASK}@", _SLOPPY.sub(rf"\\g<1>{MASK}@", text))\n',
        "",
        "tests/test_secrets.py -k 'masked or survives'",
        "a password in the address",
    ),
    Guard(
        "the environment's values stay references",
        "app/shown.py",
        "            if asked:\n",
        "            if False:\n",
        "tests/test_secrets.py -k stay_references",
        "a password in the address",
    ),
    Guard(
        "telemetry is off",
        "core/instantiate.py",
        "    switch_off()",
        "    pass",
        "tests/test_telemetry.py",
    ),
    Guard(
        "the lock folder is this user's",
        "machine/device_lock.py",
        "    if not stat.S_ISDIR(found.st_mode):\n",
        "    if False:\n",
        "tests/measure/test_lock.py -k somebody_else",
        "a link where the locks go",
    ),
    Guard(
        "a slow server is given up",
        "assets/download.py",
        "            if now - began >= WINDOW_S:\n",
        "            if False:\n",
        "tests/data/test_download.py -k 'whatever_a_server and bytes'",
    ),
    Guard(
        "a download has a known size",
        "assets/download.py",
        "            if done > (LARGEST_BYTES if total is None else total):\n",
        "            if False:\n",
        "tests/data/test_download.py -k 'whatever_a_server and more'",
    ),
    Guard(
        "a short path for the server's socket",
        "workers/forkserver.py",
        "        if len(os.fsencode(folder)) > _LONGEST:\n            continue\n",
        "",
        "tests/test_guard.py -k long_temporary",
        "90 characters",
    ),
    Guard(
        "the cache's seal",
        "cache/seal.py",
        "        if found != expected:\n",
        "        if False:\n",
        "tests/test_cache.py",
        "corrupted cache entry",
    ),
    Guard(
        "a sweep's lock",
        "app/sweep_state.py",
        "            self._lock.acquire()\n",
        "",
        "tests/test_sweep.py -k second_sweep",
        "two sweeps in one folder",
    ),
    Guard(
        "paths stay inside a record",
        "core/record/record.py",
        '            check_relative(text, f"not a record: files.{name}")\n',
        "            pass\n",
        "tests/test_paths.py",
    ),
    Guard(
        "unknown keys are refused",
        "app/check.py",
        "    check_keys(config)\n",
        "",
        "tests/test_cli.py -k 'door and nam'",
    ),
)


def run(copy: Path, guard: Guard, rows: bool) -> tuple[int, str]:
    """What shows a guard, run in the copy: its exit code and output."""
    if rows:
        script = copy / "scripts" / "bench" / "faults" / "faults.py"
        command = f"{sys.executable} {script} --jobs 1 --only '{guard.row}'"
    else:
        command = f"{sys.executable} -m pytest -q -x -n 0 -p no:cacheprovider {guard.test}"
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:  # without the guard it waits for good: that is noticed
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return 1, f"not at its end after {LIMIT_S} s\n{output}"
    return process.returncode, output


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="only guards whose name matches this pattern")
    parser.add_argument("--rows", action="store_true", help="rows of faults.py; minutes for each")
    parser.add_argument("--whole", action="store_true", help="first show that all pass unedited")
    args = parser.parse_args()
    unnoticed = 0
    print("| guard taken out | shown by | outcome |\n| --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name).resolve()
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(source, copy / part, ignore=ignored)
            else:
                shutil.copyfile(source, copy / part)
        for guard in GUARDS:
            shown = guard.row if args.rows else guard.test
            if not shown or not re.search(args.only, guard.name):
                continue
            path = copy / "pqbench" / guard.file
            text = path.read_text(encoding="utf-8")
            if text.count(guard.code) != 1:
                raise SystemExit(f"{guard.file}: not there exactly once: {guard.code!r}")
            if args.whole:
                code, output = run(copy, guard, args.rows)
                if code:
                    raise SystemExit(f"{guard.name}: fails unedited:\n{output}")
            path.write_text(text.replace(guard.code, guard.without), encoding="utf-8")
            code, _ = run(copy, guard, args.rows)
            path.write_text(text, encoding="utf-8")
            # 1: a test or row failed; anything else did not run at all
            noticed = code == 1
            unnoticed += not noticed
            outcome = "noticed" if noticed else f"NOT NOTICED (exit {code})"
            print(f"| {guard.name} | {shown.replace('|', ' or ')} | {outcome} |", flush=True)
    print(f"\n{unnoticed} not noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
