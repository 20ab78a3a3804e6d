"""Real A/A and A/B cells: the same file twice, and a session slowed by exactly a factor.

Each cell loads, starts and times both sides afresh, as an experiment does. A/A: no difference is
there, so at most 5 % of the cells may claim one, and none may be bold. A/B: the clock of the
baseline's process runs ``--factor`` times as fast, so the factor should lie in at least 93 % of the
intervals. (A wait after each call is not exact: it changes the next call. OpenVINO with a wait of a
tenth came out at 1.087 +- 0.006 in 16 cells.)

    python scripts/bench/timing/aa.py [--backends torch ort openvino] [--cells 40] [--factor 1.1]

Each cell is timed by a protocol of ``conf/protocol``. Leave the machine alone meanwhile. Exit code
1 if a share is outside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from bench_models import SIZES, backend_node, make_model, make_split, print_table
from omegaconf import OmegaConf
from simulate import record_of

from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend, Placement, Session
from pqbench.core.instantiate import make
from pqbench.core.record import Latency, Record, Speedup
from pqbench.experiment.measure_pair import SideSpec, run_cell
from pqbench.machine.cpu import usable_cores
from pqbench.measure import latency
from pqbench.measure.protocol import MeasureProtocol
from pqbench.report.rows import make_rows
from pqbench.report.significance import BETTER, WORSE, compare_with_baselines
from pqbench.report.table import make_table
from pqbench.workers.child import child_environment

LOADS = {"torch": "torch", "ort": "onnx", "openvino": "openvino"}
CLAIMED, HELD = 0.05, 0.93
CONF = Path(__file__).parents[3] / "conf" / "protocol"


class FastClock:
    """Python's ``time`` for the timer, with clocks that run faster by a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def perf_counter_ns(self) -> int:
        """Nanoseconds times the factor."""
        return int(time.perf_counter_ns() * self.factor)

    def process_time_ns(self) -> int:
        """As it is."""
        return time.process_time_ns()


class SlowedSession(Session):
    """A session each of whose calls takes a factor longer by its process's own clock."""

    def __init__(self, inner: Session, factor: float) -> None:
        self.inner = inner
        vars(latency)["time"] = FastClock(factor)

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The inner call."""
        return self.inner.run(batch)

    def placement(self) -> Placement:
        """The inner one's."""
        return self.inner.placement()

    def close(self) -> None:
        """Free the inner one."""
        self.inner.close()


class Slowed(Backend):
    """A backend whose sessions take a factor longer.

    Args:
        inner: Resolved configuration node of the backend that runs.
        factor: At least 1.
    """

    def __init__(self, inner: Mapping[str, Any], factor: float) -> None:
        self.inner: Backend = make(inner, "inner", Backend)
        self.factor = factor
        self.threads = self.inner.threads

    @property
    def loads(self) -> tuple[Representation, ...]:
        """What the inner one loads."""
        return self.inner.loads

    def availability(self) -> Availability:
        """The inner one's."""
        return self.inner.availability()

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> Session:
        """Load in the inner one."""
        return SlowedSession(self.inner.load(artifact, batch_sizes), self.factor)


@dataclass(frozen=True)
class Cell:
    """What one cell gave.

    Attributes:
        speedups: By batch size.
        latency: By batch size.
    """

    speedups: list[Speedup]
    latency: list[Latency]


def shipped_protocol(name: str) -> MeasureProtocol:
    """A protocol as ``conf/protocol`` ships it, over the default one."""
    nodes = [OmegaConf.load(CONF / f"{each}.yaml") for each in ("default", name)]
    settings = OmegaConf.to_container(OmegaConf.merge(*nodes))
    assert isinstance(settings, dict)
    return MeasureProtocol(**{str(k): v for k, v in settings.items() if k != "defaults"})


def measure_cells(
    backend: str, factor: float | None, given: argparse.Namespace, folder: Path
) -> list[Cell]:
    """Time ``cells`` cells of one runtime; without a factor both sides are the same."""
    split = make_split(folder / "split", SIZES[given.model])
    artifact = make_model(folder / "model", given.model, LOADS[backend], split)
    plain = backend_node(backend, given.threads)
    slowed = {"_target_": "aa.Slowed", "inner": plain, "factor": factor}
    candidate = SideSpec(plain, artifact.folder, split.folder, "candidate")
    node = plain if factor is None else slowed
    baseline = SideSpec(node, artifact.folder, split.folder, "baseline")
    protocol = replace(
        shipped_protocol(given.protocol), batch_sizes=given.batch_sizes, score=False, pool_mb=32
    )
    cells: list[Cell] = []
    for number in range(given.cells if factor is None else given.slowed_cells):
        out = folder / f"cell{number}"
        result = run_cell(candidate, baseline, replace(protocol, seed=number), out, given.threads)
        cells.append(Cell(result.speedup, result.latency))
        kind = "A/A" if factor is None else "A/B"
        for speedup in result.speedup:
            starts = " ".join(f"{ratio:.4f}" for ratio in speedup.start_ratios)
            print(
                f"{backend} {kind} {number + 1}: {speedup.ratio:.4f} "
                f"[{speedup.low:.4f}, {speedup.high:.4f}], starts {starts}"
                f"{', disturbed' if speedup.disturbed else ''}",
                file=sys.stderr,
                flush=True,
            )
    return cells


def records(cells: Sequence[Cell]) -> list[Record]:
    """The cells as one report sees them, each beside the same baseline."""
    made = [record_of("baseline")]
    made[0].latency = list(cells[0].latency)
    for number, cell in enumerate(cells):
        record = record_of(f"cell{number}", cell.speedups)
        record.latency = list(cell.latency)
        made.append(record)
    return made


def judge(cells: Sequence[Cell], truth: float) -> tuple[int, int, int, int, int]:
    """Intervals, those that hold the truth, claims after Holm's correction, bold, disturbed."""
    speedups = [s for cell in cells for s in cell.speedups]
    quiet = [s for s in speedups if not s.disturbed]
    held = sum(s.low <= truth <= s.high for s in quiet)
    report = records(cells)
    judged = compare_with_baselines(make_rows(report))
    claims = sum(c.verdict in (BETTER, WORSE) for c in judged)
    table = make_table(report)
    bold = sum(
        cell.best
        for line in table.cells
        for column, cell in zip(table.columns, line, strict=True)
        if column.name.startswith(("speedup", "p50_ms", "ms_per_sample"))
    )
    return len(quiet), held, claims, bold, len(speedups) - len(quiet)


def main() -> int:
    """Time, judge, print; 1 if a share is outside."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backends", nargs="+", choices=tuple(LOADS), default=list(LOADS))
    parser.add_argument("--model", choices=tuple(SIZES), default="large")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--cells", type=int, default=40, help="A/A, of each runtime")
    parser.add_argument("--slowed-cells", type=int, default=40, help="A/B, of each runtime")
    parser.add_argument("--protocol", default="quick", help="a file of conf/protocol")
    parser.add_argument("--factor", type=float, default=1.1, help="of the slowed session")
    parser.add_argument("--threads", type=int, default=usable_cores())
    given = parser.parse_args()
    os.environ.update(child_environment(given.threads))
    rows, good = [], True
    for backend in given.backends:
        for factor in [None] * bool(given.cells) + [given.factor] * bool(given.slowed_cells):
            with tempfile.TemporaryDirectory() as folder:
                cells = measure_cells(backend, factor, given, Path(folder))
            truth = factor or 1.0
            count, held, claims, bold, disturbed = judge(cells, truth)
            ok = count > 0 and held >= HELD * count
            if factor is None:
                ok = ok and claims <= CLAIMED * count and bold == 0
            good = good and ok
            rows.append(
                (
                    backend,
                    f"x {truth:g}",
                    f"{statistics.median(s.ratio for c in cells for s in c.speedups):.3f}",
                    str(count),
                    f"{held} ({held / max(count, 1):.0%})",
                    str(claims),
                    str(bold),
                    str(disturbed),
                    "yes" if ok else "NO",
                )
            )
    header = (
        "backend",
        "truth",
        "median",
        "intervals",
        "hold it",
        "claims",
        "bold",
        "disturbed",
        "passes",
    )
    print_table(header, rows)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
