"""pqbench: which compression tool and which backend make a model smaller and faster, how sure.

What a part of your own is written against is here; each name is imported when it is first used, so
``import pqbench`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pqbench.core.artifact import Artifact, LineageEntry, Representation, TensorSpec
    from pqbench.core.backend import Availability, Backend, Placement, Session
    from pqbench.core.dataset import DataIndex, Dataset, Split
    from pqbench.core.errors import (
        ConfigError,
        DataError,
        OutOfMemoryFailure,
        OutputError,
        ParityError,
        PlacementError,
        PqbenchError,
        SkippedError,
        StageTimeout,
        UnavailableError,
        UnsupportedError,
        WeightsError,
        WorkerCrash,
    )
    from pqbench.core.record import Accuracy, Record
    from pqbench.core.split import PreparedSplit
    from pqbench.core.step import Step, StepData
    from pqbench.core.task import SplitRequest, Task

__version__ = "0.1.0"
__all__ = [
    "Accuracy",
    "Artifact",
    "Availability",
    "Backend",
    "ConfigError",
    "DataError",
    "DataIndex",
    "Dataset",
    "LineageEntry",
    "OutOfMemoryFailure",
    "OutputError",
    "ParityError",
    "Placement",
    "PlacementError",
    "PqbenchError",
    "PreparedSplit",
    "Record",
    "Representation",
    "Session",
    "SkippedError",
    "Split",
    "SplitRequest",
    "StageTimeout",
    "Step",
    "StepData",
    "Task",
    "TensorSpec",
    "UnavailableError",
    "UnsupportedError",
    "WeightsError",
    "WorkerCrash",
]

_HOMES = {
    "artifact": ("Artifact", "LineageEntry", "Representation", "TensorSpec"),
    "backend": ("Availability", "Backend", "Placement", "Session"),
    "dataset": ("DataIndex", "Dataset", "Split"),
    "record": ("Accuracy", "Record"),
    "split": ("PreparedSplit",),
    "step": ("Step", "StepData"),
    "task": ("SplitRequest", "Task"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name of the public face when it is asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'pqbench' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"pqbench.core.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
