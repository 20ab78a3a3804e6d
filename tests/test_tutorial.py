"""The commands of docs/tutorial_own_photos.md run as they are written, on a few photographs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_sweep import ROOT, SHORT

from pqbench.core.record import Record

PAGE = (ROOT / "docs" / "tutorial_own_photos.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "docs" / "examples" / "own_photos"
KEPT = 8  # photographs of each class and split: the commands are tried, not the classifier


def commands() -> list[list[str]]:
    """What the page types after the installation, without the Python that runs it."""
    block = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    text = block[1].replace("\\\n", " ").partition("cd docs/examples/own_photos\n")[2]
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[words.index("python") + 1 :] for words in lines]


def python(folder: Path, *arguments: str) -> None:
    path = os.pathsep.join([str(ROOT), str(folder)])
    environment = {**os.environ, "PYTHONPATH": path, "XDG_RUNTIME_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_tutorial_of_own_photographs_runs_as_it_is_written(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset")
    folder = tmp_path / "own_photos"
    shutil.copytree(EXAMPLE, folder)
    photos, train, answer = commands()
    python(folder, *photos)
    for name in (folder / "photos").glob("*/*"):
        for path in sorted(name.iterdir())[KEPT:]:
            path.unlink()
    python(folder, *train)
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    python(folder, *answer, *SHORT, "tracking=none")
    records = [Record.load(p) for p in sorted((folder / "outputs/sweeps").glob("*/*/record.json"))]
    assert [(r.experiment.recipe_name, r.status) for r in records] == [
        ("none", "ok"),
        ("ort_int8", "ok"),
    ]
    for record in records:
        assert record.experiment.weights == "file"
        assert record.accuracy is not None
        assert record.accuracy.count == 3 * KEPT
    told = next((folder / "outputs/sweeps").glob("*/report/answer.md")).read_text()
    assert "FP32" in told
