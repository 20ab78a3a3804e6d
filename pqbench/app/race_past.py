"""What a race finds when it begins: an earlier attempt's trail, and this machine's records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqbench.core.errors import DataError
from pqbench.core.files import read_limited
from pqbench.core.record import Record
from pqbench.report.load import find_records
from pqbench.report.trail import FILE


@dataclass(frozen=True)
class Before:
    """What earlier attempts in the folder left: what they found is found again, in their order."""

    spent_s: float = 0.0
    launched: int = 0
    screened: int | None = None
    budget_s: float = 0.0
    prior: Mapping[str, float | None] = field(default_factory=dict)
    trail: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, folder: Path) -> Before:
        """From ``search.json``; nothing where there is none, or one of another form."""
        try:
            kept = json.loads(read_limited(folder / FILE))
            screened = kept["screened"]
            return cls(
                float(kept["spent_s"]), int(kept["launched"]),
                None if screened is None else int(screened), float(kept["budget_s"]),
                dict(kept["prior"]),
                [{"cell": str(s["cell"]), "at_s": float(s["at_s"])} for s in kept["trail"]],
            )  # fmt: skip
        except (DataError, ValueError, KeyError, TypeError):
            return cls()


def known_ms(records: Sequence[Record]) -> Mapping[tuple[str, str, str], float]:
    """Milliseconds per call at the smallest batch size, by model, recipe and backend."""
    found = {}
    for record in records:
        first = min(record.latency, key=lambda x: x.batch_size, default=None)
        if record.ok and first is not None:
            what = record.experiment
            found[what.model, "+".join(what.recipe) or "none", what.backend] = first.p50_ms
    return found


def earlier_records(outputs: Path) -> list[Record]:
    """Records that the cache of this machine keeps."""
    kept = outputs / "cache" / "records"
    return [record for record, _ in find_records(kept)] if kept.is_dir() else []
