"""What is recorded of the machine, and what a child process gets."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pqbench.cache.keys import NO_CAUSE, library_versions
from pqbench.machine import cpu
from pqbench.machine.describe import describe
from pqbench.machine.gpu import visible_gpu
from pqbench.machine.software import installed, versions
from pqbench.workers.child import child_environment


def test_describe_is_json_and_holds_what_a_reader_needs() -> None:
    found = json.loads(json.dumps(describe(threads=2)))
    assert found["cpu"]["model"]
    assert found["cpu"]["threads"] == 2
    assert 1 <= found["cpu"]["usable_cores"] <= found["cpu"]["logical_cores"]
    assert found["libraries"]["numpy"]
    assert found["memory"]["total_bytes"] > 0
    assert found["python"].startswith(f"{sys.version_info.major}.")
    assert isinstance(found["gpus"], list)
    assert set(found["git"]) == {"commit", "dirty"}


def test_describe_imports_no_framework() -> None:
    code = (
        "import sys; from pqbench.machine.describe import describe; describe(1);"
        "print([m for m in ('torch','onnxruntime','openvino','nncf','mlflow') if m in sys.modules])"
    )
    root = Path(cpu.__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    ).stdout
    assert output.strip() == "[]"


def test_child_environment_sets_threads_and_silences_telemetry() -> None:
    variables = child_environment(3)
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "3"
    assert variables["CI"] == "true"
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert variables["PATH"] == os.environ["PATH"]
    assert "OMP_NUM_THREADS" not in os.environ or os.environ["OMP_NUM_THREADS"] != "3"


def test_child_environment_carries_the_users_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_very_own_module.py").write_text("ANSWER = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    output = subprocess.run(
        [sys.executable, "-c", "import my_very_own_module as m, pqbench; print(m.ANSWER)"],
        capture_output=True,
        text=True,
        check=True,
        env=child_environment(1),
        cwd="/",
    ).stdout
    assert output.strip() == "42"


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({"cgroup.controllers": "cpu", "a/cpu.max": "150000 100000"}, "0::/a", 1.5),
        ({"cgroup.controllers": "cpu", "cpu.max": "50000 100000", "a/cpu.max": "max 100000"},
         "0::/a", 0.5),
        ({"cgroup.controllers": "cpu", "a/cpu.max": "max 100000"}, "0::/a", None),
        ({"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"},
         "1:cpu:/a", 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", None),
    ],
)  # fmt: skip
def test_cpu_quota_of_both_cgroup_versions(
    files: dict[str, str],
    own: str,
    expected: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    read = cpu._read
    monkeypatch.setattr(cpu, "_CGROUP", tmp_path)
    monkeypatch.setattr(cpu, "_read", lambda p: own if p == Path("/proc/self/cgroup") else read(p))
    assert cpu.cpu_quota() == expected
    cores = len(cpu.affinity())
    assert 1 <= cpu.usable_cores() <= cores
    if expected == 0.5:
        assert cpu.usable_cores() == 1


@pytest.mark.parametrize(
    ("visible", "index", "expected"),
    [(None, 1, 1), ("2,0", 0, 2), ("2,0", 1, 0), ("2", 1, None), ("GPU-x", 0, "GPU-x"),
     ("MIG-x", 0, None)],
)  # fmt: skip
def test_visible_gpu_maps_cuda_to_nvml(
    visible: str | None,
    index: int,
    expected: int | str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpu(index) == expected


def declared_in_setup_cfg() -> set[str]:
    setup = configparser.ConfigParser()
    setup.read(Path(cpu.__file__).parents[2] / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    lists = [setup["options"]["install_requires"]]
    lists += [extras[name] for name in extras if name not in ("dev", "docs")]
    lines = [line.strip() for block in lists for line in block.splitlines() if line.strip()]
    names = {re.split(r"[\[<>=!~;@ ]", line)[0].lower().replace("_", "-") for line in lines}
    return names - {"pqbench"}


def test_versions_hold_every_declared_library_that_is_installed() -> None:
    known = {line.split("==")[0] for line in installed()}
    assert declared_in_setup_cfg() & known - set(versions()) == set()


def test_library_versions_leave_out_only_what_decides_no_figure() -> None:
    assert set(NO_CAUSE) - {"pqbench"} <= declared_in_setup_cfg()
    assert set(library_versions()) == set(versions()) - set(NO_CAUSE)
    assert {"torch", "numpy", "openvino"} <= set(library_versions())


def test_identity_is_the_same_over_every_path_that_leads_to_an_environment(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset")  # its images lie in the environment itself
    link = tmp_path / "venv"
    link.symlink_to(sys.prefix)
    code = (
        "import sys; from pqbench.data.elpv import Elpv;"
        "from pqbench.experiment.reuse import identity;"
        "print(sys.prefix, identity({}, 1, Elpv().index().listing_hash()))"
    )
    interpreters = [Path(sys.executable), link / Path(sys.executable).relative_to(sys.prefix)]
    (prefix, here), (other, there) = (
        subprocess.run(
            [str(interpreter), "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(cpu.__file__).parents[2],
        ).stdout.split()
        for interpreter in interpreters
    )
    assert sys.prefix == sys.base_prefix or other != prefix
    assert here == there
