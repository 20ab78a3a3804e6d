"""docs/extend.md is complete and true: what it shows is written to disk word by word, and run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import extend_page
import pytest
from tiny_sweep import ROOT, SHORT

from pqbench.core.record import Record

PAGE = extend_page.PAGE.read_text(encoding="utf-8")
FILE = re.compile(r"```(?:python|yaml)\n((?:# @package .*?\n)?# ([\w./]+)\n.*?)```", re.DOTALL)
COMMAND = re.search(r"```bash\npython -m pqbench (.*?)\n```", PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: every file of the page where its first line says."""
    folder = tmp_path_factory.mktemp("user")
    for found in FILE.finditer(PAGE):
        path = folder / found[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found[1], encoding="utf-8")
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the user's folder, with pqbench as it is here and a device lock of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_RUNTIME_DIR": str(folder),
        "COLUMNS": "160",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_tables_of_the_page_are_those_of_the_contracts() -> None:
    assert extend_page.page(PAGE) == PAGE, "run python scripts/extend_page.py"
    for member in ("profile(batch, runs)", "compile_reason", "check_loads(representation)"):
        assert f"| `{member}` |" in PAGE


def test_each_member_of_a_contract_is_on_the_page() -> None:
    import pqbench

    for contract in (pqbench.Backend, pqbench.Session, pqbench.Step, pqbench.Dataset, pqbench.Task):
        declared = {name for name in vars(contract) if not name.startswith("_")}
        for name in declared - {"result_of", "is_by_names"}:
            assert re.search(rf"^\| `{name}(\(.*\))?` \|", PAGE, re.MULTILINE), name


def test_parts_of_the_page_keep_their_contracts(folder: Path) -> None:
    assert (folder / "test_my_parts.py").is_file()
    done = python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_parts.py")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


@pytest.mark.slow
def test_parts_of_the_page_run_as_it_says_under_the_paper_protocol(folder: Path) -> None:
    """The protocol's numbers are made small; what it asks for (starts, a profile) stays."""
    assert COMMAND is not None
    arguments = shlex.split(COMMAND[1])
    less = ["protocol.processes=2", "protocol.batch_sizes=[1,2]", "protocol.warmup_calls=1"]
    quick = [*SHORT, "protocol.settle_s=0", *less, "fit.epochs=1", "tracking=none"]
    done = python(folder, "-m", "pqbench", *arguments, "protocol=paper", *quick)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [Record.load(path) for path in (folder / "outputs").rglob("runs/**/record.json")]
    assert {(*r.experiment.recipe, r.status) for r in records} == {("ok",), ("clip", "ok")}
    for record in records:
        assert (record.experiment.model, record.experiment.backend) == ("small", "mine")
        assert record.config["protocol"]["profile"] is True
        assert record.profile is None and "no profiler" in record.reasons["profile"]
        assert record.placement is not None and record.placement.kernels["Conv"] == 2
        assert record.accuracy is not None and record.accuracy.top1 > 0.5
    clip = next(r for r in records if r.experiment.recipe)
    assert clip.lineage[-2]["action"] == "clip" and clip.lineage[-2]["details"]["clipped"] > 0
    assert [s.batch_size for s in clip.speedup] == [1, 2]
