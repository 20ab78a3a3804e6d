"""Memory of a process by the kernel's high-water mark, and by the GPU driver."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from pqbench.measure import memory

PROBE = """
import numpy as np
from pqbench.measure.memory import MemoryWatch
early = np.ones(300 << 20, np.uint8)  # a peak before the load must not count
del early
watch = MemoryWatch()
watch.before_load()
model = np.ones({model} << 20, np.uint8)
watch.after_load()
work = np.ones({work} << 20, np.uint8)
del work
result, reasons = watch.result()
print(result.rss_model_mb, result.rss_working_mb, result.rss_peak_mb, result.rss_runtime_mb)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
def test_memory_watch_reads_200_mb_within_5_percent() -> None:
    output = subprocess.run(
        [sys.executable, "-c", PROBE.format(model=200, work=100)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(memory.__file__).parents[2],
    ).stdout
    model, working, peak, runtime = (float(x) for x in output.split())
    assert model == pytest.approx(200, rel=0.05)
    assert working == pytest.approx(100, rel=0.05)
    assert peak == pytest.approx(runtime + model + working, rel=0.01)
    assert peak < 400


def test_memory_watch_without_a_resettable_peak_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "reset_peak", lambda: False)
    watch = memory.MemoryWatch()
    watch.before_load()
    watch.after_load()
    result, reasons = watch.result()
    assert "cannot be reset" in result.method
    assert result.rss_peak_mb is not None
    assert reasons["memory.vram_driver_mb"] == "the model runs on the CPU"


class FakeNvml(types.ModuleType):
    """NVML with one GPU; lists process ids as the test wants."""

    class NVMLError(Exception):
        pass

    def __init__(self, pids: dict[int, int], used: list[int]) -> None:
        super().__init__("pynvml")
        self.pids, self.used = pids, used
        self.asked: list[object] = []

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        self.asked.append(index)
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked.append(uuid)
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> types.SimpleNamespace:  # noqa: N802
        return types.SimpleNamespace(used=self.used.pop(0))

    def nvmlDeviceGetComputeRunningProcesses(  # noqa: N802
        self, handle: object
    ) -> list[types.SimpleNamespace]:
        return [types.SimpleNamespace(pid=p, usedGpuMemory=m) for p, m in self.pids.items()]


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    yield


def watched(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> memory.Memory:
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    watch = memory.MemoryWatch("cuda:0")
    watch.before_load()
    watch.after_load()
    return watch.result()[0]


def test_vram_is_the_drivers_figure_of_this_process(
    monkeypatch: pytest.MonkeyPatch, no_torch: None
) -> None:
    fake = FakeNvml({os.getpid(): 512 << 20, 1: 7 << 30}, [1 << 30, 9 << 30])
    result = watched(fake, monkeypatch)
    assert result.vram_driver_mb == 512
    assert "NVML per process" in result.method


def test_vram_has_what_the_allocator_gave_back_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        max_memory_reserved=lambda _: 936 << 20, memory_reserved=lambda _: 140 << 20
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    result = watched(FakeNvml({os.getpid(): 754 << 20}, [0]), monkeypatch)
    assert result.vram_driver_mb == 754 + 936 - 140
    assert result.vram_allocator_mb == 936
    assert "and 796 MiB that the allocator had given back" in result.method


def test_vram_where_the_driver_lists_host_pids_is_the_devices_growth(
    monkeypatch: pytest.MonkeyPatch, no_torch: None
) -> None:
    fake = FakeNvml({999_999_999: 512 << 20}, [1 << 30, 3 << 30])
    result = watched(fake, monkeypatch)
    assert result.vram_driver_mb == 2048
    assert "device-used minus before" in result.method


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, 0), ("3,1", 3), ("GPU-abc,GPU-def", "GPU-abc")]
)
def test_vram_is_asked_of_the_gpu_that_cuda_uses(
    visible: str | None, asked: object, monkeypatch: pytest.MonkeyPatch, no_torch: None
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    fake = FakeNvml({os.getpid(): 1 << 20}, [0, 0])
    watched(fake, monkeypatch)
    assert set(fake.asked) == {asked}


def test_vram_of_a_mig_slice_is_null_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, no_torch: None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-123")
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml({}, []))
    watch = memory.MemoryWatch("cuda:0")
    watch.before_load()
    watch.after_load()
    result, reasons = watch.result()
    assert result.vram_driver_mb is None
    assert "NVML" in reasons["memory.vram_driver_mb"]
