"""One fault: what is injected, and how the hurt sweep must end."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fault_bench import Bench

EXPECTED = 2


@dataclass
class Fault:
    """One row.

    Attributes:
        name: What is injected.
        hurt: Runs the sweep with the fault; returns exit code and output.
        without: Stages that are computed in this row.
        codes: Exit codes that are right.
        status: Status of the record that is hit; empty: every record is ok.
        stage: Stage that this record names.
        says: Pattern of what the command must say.
        again: Further arguments of the second command.
        sync: Whether a sync to the local store follows, as after an outage.
        experiments: Different ones of both commands together.
    """

    name: str
    hurt: Callable[[Bench], tuple[int, str]]
    without: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0,)
    status: str = ""
    stage: str = ""
    says: str = ""
    again: tuple[str, ...] = ()
    sync: bool = False
    experiments: int = EXPECTED

    def wrong(self, code: int, output: str, bench: Bench) -> list[str]:
        """How the hurt sweep's end differs from what is stated here."""
        problems = []
        if code not in self.codes or "Traceback" in output:
            problems.append(f"ended with {code}: {output[-1500:]}")
        if not re.search(self.says, output):
            problems.append(f"does not say {self.says}: {output[-1500:]}")
        hit = [ending for ending in bench.endings() if ending[0] not in ("ok", "skipped")]
        expected = {(self.status, self.stage)} if self.status else set()
        if {(status, stage) for status, stage, _ in hit} != expected:
            problems.append(f"records {[ending[:2] for ending in hit]}, not {expected}")
        failed = {f for status, f, _ in bench.runs() if status == "FAILED"}
        if not {f for _, _, f in hit} <= failed:
            problems.append("MLflow does not call its run FAILED")
        return problems
