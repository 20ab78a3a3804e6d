"""What came out of one experiment: ``record.json``, each field typed, documented, with its unit.

Units are in the names: ``_ms`` milliseconds, ``_s`` seconds, ``_mb`` mebibytes (2**20 bytes),
``_bytes``, ``_per_s``, ``_pt`` percentage points. ``low`` and ``high`` are the ends of a 95 %
interval. A value that was not measured is null and ``reasons`` says why, keyed by the field's path.

A figure is added by one field, with its meaning and a default, in the module of its kind; the JSON
Schema (:func:`json_schema`), the reference page and the reader are made from the classes. Records
of earlier versions are read by :mod:`pqbench.core.record.history`.
"""

from __future__ import annotations

from pqbench.core.record.accuracy import (
    METRIC_NAMES,
    NOT_BETTER,
    Accuracy,
    AgainstBaseline,
    ClassScore,
    Faithfulness,
)
from pqbench.core.record.history import SCHEMA_VERSION
from pqbench.core.record.pairing import Pairing
from pqbench.core.record.placement import PlacementInfo, Profile
from pqbench.core.record.record import (
    FILE,
    ErrorInfo,
    Experiment,
    Record,
    json_schema,
    written_version,
)
from pqbench.core.record.resources import Energy, Memory, Size
from pqbench.core.record.timing import Cold, Latency, Speedup, Stage

__all__ = [
    "FILE",
    "METRIC_NAMES",
    "NOT_BETTER",
    "SCHEMA_VERSION",
    "Accuracy",
    "AgainstBaseline",
    "ClassScore",
    "Cold",
    "Energy",
    "ErrorInfo",
    "Experiment",
    "Faithfulness",
    "Latency",
    "Memory",
    "Pairing",
    "PlacementInfo",
    "Profile",
    "Record",
    "Size",
    "Speedup",
    "Stage",
    "json_schema",
    "written_version",
]
