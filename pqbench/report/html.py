"""One page that needs nothing else: plot, tables, failures, methods, environment.

The figures are embedded as JSON in ``page.html`` and drawn by the script inside it, which makes
text only by ``textContent``: nothing from a record is ever parsed as markup.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pqbench.core.record import METRIC_NAMES, Record
from pqbench.report import references
from pqbench.report.environments import environment_labels
from pqbench.report.predictions import predicted
from pqbench.report.rows import Estimate, Row
from pqbench.report.significance import BETTER, WORSE, Comparison, compare_with_baselines
from pqbench.report.table import FLAGS, Table, batch_table

TEMPLATE = Path(__file__).with_name("page.html")
_ENVIRONMENT = ("cpu", "gpus", "memory", "container", "os", "python", "libraries", "git")
_LOG_LINES = 4000  # characters of a failure's log


def to_html(
    records: Sequence[Record],
    rows: Sequence[Row],
    table: Table,
    answered: Sequence[Sequence[str]] = (),
    folders: Mapping[tuple[str, str], Path] = MappingProxyType({}),
    methods: Sequence[str] = (),
    judged: Sequence[Comparison] | None = None,
    batches: Table | None = None,
) -> str:
    """The page.

    Args:
        records: What is reported, in reading order.
        rows: The same as :func:`pqbench.report.rows.make_rows` gives them.
        table: Their summary.
        answered: The lines of each answer; see :func:`pqbench.report.answer.lines`.
        folders: Where each record lies, for its predictions; see
            :func:`pqbench.report.predictions.predicted`.
        methods: The paragraphs that say how it was measured.
        judged: The rows' comparisons with their baselines, where they were made already.
        batches: Their table by batch size, where it was made already.
    """
    judged = compare_with_baselines(rows) if judged is None else judged
    data = page_data(records, rows, table, judged, batches or batch_table(rows, judged))
    data["methods"] = [references.plain(text) for text in methods]
    data["answers"] = [list(told) for told in answered]
    data["predicted"] = predicted(records, folders)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # inside a script element only these could end it or start a comment
    for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, code)
    return TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", text)


_TESTED = {"drop_pt": "drop [pt]", "clean_drop_pt": "drop [pt], clean"}


def page_data(
    records: Sequence[Record],
    rows: Sequence[Row],
    table: Table,
    comparisons: Sequence[Comparison],
    by_size: Table,
) -> dict[str, Any]:
    """Everything that the page shows, JSON-ready. ``records`` in the order of ``rows``."""
    labels = environment_labels(records)
    places = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    first = dict(zip(reversed(labels), reversed(records), strict=True))
    sizes = sorted({size for row in rows for size in row.per_sample_ms})
    shown = []
    for index, row in enumerate(rows):
        shown.append(
            {
                "i": index,
                **{k: getattr(row, k) for k in ("model", "dataset", "backend", "recipe", "status")},
                "env": places[row.machine],
                "front": not row.faults,
                "score": _ends(row.score_pct),
                "metric": METRIC_NAMES.get(row.metric, row.metric),
                "drop": _ends(row.drop_pt),
                "sample": {size: _ends(value) for size, value in row.per_sample_ms.items()},
                "speedup": {size: _ends(value) for size, value in row.speedups.items()},
                "faulty": bool(row.faults),
                "size": _round(row.size_mb),
                "rss": _round(row.record.memory.rss_peak_mb),
                "cells": _cells(table, index),
                "sizes": _cells(by_size, index),
            }
        )
    return {
        "title": _title(records),
        "lead": _lead(records, len(places)),
        "legend": table.legend,
        "columns": _columns(table),
        "size_columns": _columns(by_size),
        "decimals": 1 if max((row.count or 0 for row in rows), default=0) < 2000 else 2,
        "batches": sizes,
        "rows": shown,
        "tests": [
            {
                "row": c.row,
                "name": _TESTED.get(c.name, "speedup"),
                "batch": c.batch_size,
                "value": _ends(c.estimate),
                "p": _round(c.p),
                "holm": _round(c.adjusted_p),
                "verdict": c.verdict,
            }
            for c in comparisons
        ],
        "shown": sum(c.verdict in (BETTER, WORSE) for c in comparisons),
        "failures": [
            {
                "row": index,
                "status": str(record.status),
                "stage": record.error.stage,
                "type": record.error.type,
                "message": record.error.message,
                "hint": record.error.hint,
                "log": record.error.log_tail[-_LOG_LINES:],
            }
            for index, record in enumerate(records)
            if record.error
        ],
        "environments": [
            {"label": label, "facts": _facts(first[label].environment)} for label in places
        ],
        "protocols": _protocols(records),
    }


def _columns(table: Table) -> list[dict[str, Any]]:
    return [{"h": c.header, "n": int(c.numeric), "kind": str(c.kind)} for c in table.columns]


def _cells(table: Table, row: int) -> list[dict[str, Any]]:
    """The cells of a row: ``t`` text, ``d`` detail, ``k`` what it is sorted by, and its marks."""
    shown = []
    for column, cell in zip(table.columns, table.cells[row], strict=True):
        value = column.value(table.rows[row])
        notes = [table.footnotes[n - 1] for n in cell.notes]
        marks = {
            "d": cell.detail,
            "b": int(cell.best),
            "ns": int(cell.noise),
            "f": FLAGS[cell.flag][0] if cell.flag else "",
            "notes": [*([cell.why] if cell.why else []), *notes],
        }
        key = value.value if isinstance(value, Estimate) else value
        finite = not isinstance(key, float) or math.isfinite(key)
        kept = {k: v for k, v in marks.items() if v}
        shown.append({"t": cell.text, "k": key if finite else None, **kept})
    return shown


def _title(records: Sequence[Record]) -> str:
    models = list(dict.fromkeys(r.experiment.model for r in records))
    named = ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")
    return f"pqbench: {named}" if models else "pqbench report"


def _lead(records: Sequence[Record], environments: int) -> str:
    tally = Counter(str(record.status) for record in records)
    counts = ", ".join(f"{n} {status}" for status, n in tally.most_common())
    days = sorted(record.created[:10] for record in records)
    when = (
        ""
        if not days
        else f" Measured {days[0]}" + (f" to {days[-1]}." if days[0] != days[-1] else ".")
    )
    where = (
        ""
        if environments < 2
        else (f" They come from {environments} environments, never compared with each other.")
    )
    return f"{len(records)} experiments: {counts}.{when}{where}"


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What matters of an environment, one level deep."""
    facts: dict[str, Any] = {}
    for name in _ENVIRONMENT:
        value = environment.get(name)
        if isinstance(value, Mapping) and name not in ("libraries",):
            facts |= {f"{name} {key}": item for key, item in value.items() if item is not None}
        elif isinstance(value, Mapping):
            facts[name] = ", ".join(f"{key} {item}" for key, item in value.items())
        elif value not in (None, []):
            facts[name] = value
    return facts


def _protocols(records: Sequence[Record]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        protocol = record.config.get("protocol") or {}
        found.setdefault(json.dumps(protocol, sort_keys=True), protocol)
    return list(found.values())[:20]


def _ends(value: Estimate | None) -> list[float] | None:
    """Value and ends, or None where one is not finite."""
    if value is None:
        return None
    numbers = [value.value, value.low, value.high]
    return [float(f"{x:.6g}") for x in numbers] if all(map(math.isfinite, numbers)) else None


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
