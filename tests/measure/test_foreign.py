"""Foreign CPU load from the kernel's counters."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqbench.machine.foreign_load import (
    CpuSample,
    ForeignLoad,
    process_cpu_s,
    read_proc_stat,
    share_between,
)

SPIN = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
linux = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc/stat")


@given(
    st.floats(0.2, 10),
    st.integers(1, 64),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
@settings(deadline=None)
def test_share_between_recovers_what_others_took(
    wall: float, cpus: int, idle: float, own: float, steal: float
) -> None:
    total = wall * cpus
    idle_s = idle * total
    own_s = own * (total - idle_s)
    foreign_s = total - idle_s - own_s
    steal_s = steal * foreign_s
    share = share_between(
        CpuSample(100, 50, 3, 7, cpus),
        CpuSample(100 + wall, 50 + idle_s, 3 + steal_s, 7 + own_s, cpus),
    )
    assert share.foreign == pytest.approx(foreign_s / total, abs=1e-6)
    assert share.steal == pytest.approx(steal_s / total, abs=1e-6)


def test_read_proc_stat_takes_only_the_usable_cpus(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\n"
        "cpu0 100 0 50 700 30 0 5 20 0 0\n"
        "cpu1 1 1 1 1 1 1 1 1 0 0\n"
        "cpu2 100 0 50 400 10 0 5 40 0 0\n"
        "intr 5 0\n"
    )
    tick = os.sysconf("SC_CLK_TCK")
    assert read_proc_stat({0, 2}, path) == (1140 / tick, 60 / tick)


def test_share_is_unknown_for_a_moment_too_short() -> None:
    load = ForeignLoad(reader=lambda: CpuSample(0.05, 0.0, 0.0, 0.0, 2))
    assert load.since(CpuSample(0.0, 0.0, 0.0, 0.0, 2)) is None
    assert load.since(None) is None


@linux
def test_foreign_load_counts_a_strange_process_and_not_our_own() -> None:
    with subprocess.Popen([sys.executable, "-c", SPIN]) as spinner:
        try:
            while process_cpu_s(spinner.pid) < 0.05:
                time.sleep(0.01)
            strange, ours = ForeignLoad(), ForeignLoad([spinner.pid])
            before, before_ours = strange.sample(), ours.sample()
            cpu = process_cpu_s(spinner.pid)
            time.sleep(0.6)
            used = process_cpu_s(spinner.pid) - cpu
            after, after_ours = strange.sample(), ours.sample()
        finally:
            spinner.kill()
    assert before and after and before_ours and after_ours
    assert used > 0.01
    # Our own time differs by the spinner's, whatever else the machine is doing meanwhile; the share
    # that follows from it is the property above.
    difference = (after_ours.own_s - before_ours.own_s) - (after.own_s - before.own_s)
    assert difference == pytest.approx(used, rel=0.1, abs=0.05)
    as_strange, as_ours = share_between(before, after), share_between(before_ours, after_ours)
    assert as_strange.foreign >= as_ours.foreign


def test_process_cpu_of_a_dead_process_is_zero() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert process_cpu_s(process.pid) == 0.0
