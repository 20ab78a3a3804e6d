"""Energy counters."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqbench.measure.energy import Reading, joules_between, read


def rapl(folder: Path, microjoules: int, name: str = "intel-rapl:0") -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "energy_uj").write_text(str(microjoules))
    (folder / name / "max_energy_range_uj").write_text("1000000000")


def test_read_sums_packages_and_not_their_parts(tmp_path: Path) -> None:
    rapl(tmp_path, 5_000_000)
    rapl(tmp_path, 9_000_000, "intel-rapl:0:0")  # a part of package 0
    rapl(tmp_path, 1_000_000, "intel-rapl:1")
    before, reason = read("cpu", tmp_path)
    rapl(tmp_path, 7_000_000)
    after, _ = read("cpu", tmp_path)
    assert reason == ""
    assert before is not None
    assert after is not None
    assert before.source == "rapl"
    assert joules_between(before, after) == pytest.approx(2)


def test_read_without_a_counter_gives_the_reason(tmp_path: Path) -> None:
    reading, reason = read("cpu", tmp_path)
    assert reading is None
    assert "no RAPL counter" in reason


def test_read_of_a_forbidden_counter_gives_the_reason(tmp_path: Path) -> None:
    rapl(tmp_path, 1)
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").unlink()
    reading, reason = read("cpu", tmp_path)
    assert reading is None
    assert "cannot be read" in reason


@given(st.floats(0, 1000), st.floats(0, 999))
def test_joules_between_survives_one_wrap(start: float, used: float) -> None:
    end = (start + used) % 1000
    before = Reading("rapl", {"p": start}, {"p": 1000.0})
    after = Reading("rapl", {"p": end}, {"p": 1000.0})
    assert joules_between(before, after) == pytest.approx(used, abs=1e-6)


def test_read_on_a_gpu_without_nvml_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reading, reason = read("cuda:0")
    assert reading is None
    assert "NVML" in reason


def test_read_on_a_gpu_takes_nvmls_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("pynvml")
    fake.NVMLError = RuntimeError  # type: ignore[attr-defined]
    for name in ("nvmlInit", "nvmlShutdown"):
        setattr(fake, name, lambda: None)
    fake.nvmlDeviceGetHandleByIndex = lambda index: index  # type: ignore[attr-defined]
    fake.nvmlDeviceGetTotalEnergyConsumption = lambda handle: 1500  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reading, _ = read("cuda:0")
    assert reading is not None
    assert (reading.source, reading.joules["cuda:0"]) == ("nvml", 1.5)
