"""Whether a backend and its sessions do what they declare."""

from __future__ import annotations

import importlib
import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import Artifact
from pqbench.core.backend import Availability, Backend, Placement, Session
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.core.parity import sqnr_db
from pqbench.testing.require import instance, known_representations, require, sentences
from pqbench.testing.samples import MADE, outputs, small_artifact, small_split

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_SAME_DB = 20.0  # half precision leaves more; another model, or outputs out of order, far less
_RUNS = 2

Batch = dict[str, npt.NDArray[Any]]


def check_backend(
    backend: Backend | type[Backend],
    artifact: Artifact | None = None,
    batch_sizes: Sequence[int] = (1, 3),
) -> None:
    """Load a small model in each representation, run it at each batch size, look at all it says.

    Args:
        backend: The backend with its settings, or a class that needs none.
        artifact: A model of your own, for a backend that refuses a small convolutional network or
            loads only what some step gives; it is fed random values, and what it computes is
            compared with a plain float32 run where there is one.
        batch_sizes: Samples per call.

    Raises:
        BrokenContract: What is declared is not well-formed or not what happens.
        UnavailableError: The backend says that it cannot run here, so nothing more can be proved.
    """
    made = instance(backend, Backend)
    who = type(made).__name__
    _check_declared(who, made)
    _check_availability(who, made)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if artifact is not None:
            models = [artifact]
        else:
            split = small_split(folder / "data")
            models = [
                small_artifact(folder / taken, split, taken)
                for taken in made.loads
                if taken in MADE
            ]
            require(
                bool(models),
                f"{who} loads {', '.join(made.loads)}, which check_backend cannot make: give it "
                "an artifact",
            )
        for model in models:
            try:
                made.check_loads(model.representation)
            except UnsupportedError:
                continue
            _check_load(who, made, model, batch_sizes)


def _check_declared(who: str, backend: Backend) -> None:
    known_representations(who, "loads", backend.loads)
    device = backend.device
    fits = isinstance(device, str) and _DEVICE.fullmatch(device) is not None
    require(fits, f"{who}.device is {device!r}; write cpu, cuda or cuda:<index>")
    threads = backend.threads
    require(isinstance(threads, int) and threads >= 0, f"{who}.threads is {threads!r}, no number")
    require(isinstance(backend.name, str), f"{who}.name is {backend.name!r}, no string")
    sentences(who, "modules", backend.modules)


def _check_availability(who: str, backend: Backend) -> None:
    found = backend.availability()
    require(
        isinstance(found, Availability),
        f"{who}.availability() gave {type(found).__name__}, no Availability",
    )
    if not found.available:
        require(bool(found.reason), f"{who} is not available and does not say why (reason)")
        raise UnavailableError(found.reason, hint=found.hint)
    require(not found.reason, f"{who} is available, but gives a reason why not: {found.reason}")
    same = found.device.partition(":")[0] == backend.device.partition(":")[0]
    require(same, f"{who}: availability() says {found.device}, device says {backend.device}")
    for library, version in found.versions.items():
        require(isinstance(version, str), f"{who}: the version of {library} is {version!r}")
    for module in backend.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            require(False, f"{who} is available, but {module} of modules is not: {error}")


def _check_load(who: str, backend: Backend, model: Artifact, batch_sizes: Sequence[int]) -> None:
    sentences(who, "imports(artifact)", backend.imports(model))
    session = backend.load(model, list(batch_sizes))
    require(
        isinstance(session, Session),
        f"{who}.load() gave {type(session).__name__}, which does not inherit from pqbench.Session",
    )
    who = f"{who} with {model.representation}"
    for size in batch_sizes:
        _check_run(who, session, model, _batch(model, size), size)
    _check_placement(who, session.placement())
    _check_profile(who, session.profile(_batch(model, batch_sizes[0]), _RUNS))
    if session.compile_s is None:
        require(bool(session.compile_reason), f"{who}: compile_s is None without compile_reason")
    else:
        require(session.compile_s >= 0, f"{who}: compile_s is {session.compile_s}")
    session.close()
    again = backend.load(model, list(batch_sizes))
    again.run(_batch(model, batch_sizes[0]))
    again.close()


def _batch(model: Artifact, size: int) -> Batch:
    rng = np.random.default_rng(size)
    out: Batch = {}
    for spec in model.inputs:
        shape = (size, *(n or 1 for n in spec.shape[1:]))
        kind = np.dtype(spec.dtype)
        values = rng.normal(size=shape) if kind.kind == "f" else rng.integers(1, 9, shape)
        out[spec.name] = np.ascontiguousarray(values, kind)
    return out


def _check_run(who: str, session: Session, model: Artifact, batch: Batch, size: int) -> None:
    who = f"{who}, batch size {size}"
    given = {name: array.copy() for name, array in batch.items()}
    found = session.run(batch)
    require(isinstance(found, list), f"{who}: run() gave {type(found).__name__}, no list")
    require(
        len(found) == len(model.outputs),
        f"{who}: run() gave {len(found)} outputs, the model has {len(model.outputs)}",
    )
    got = []
    for name, array in zip(model.outputs, found, strict=True):
        require(
            isinstance(array, np.ndarray),
            f"{who}: output {name} is a {type(array).__name__}, no numpy array in host memory",
        )
        require(array.dtype.kind == "f", f"{who}: output {name} is {array.dtype}, not float")
        rows = array.shape[0] if array.ndim else 0
        require(rows == size, f"{who}: output {name} has shape {array.shape}, {size} rows wanted")
        require(bool(np.isfinite(array).all()), f"{who}: output {name} is not finite")
        got.append(array.copy())
    kept = all(np.array_equal(given[name], batch[name]) for name in given)
    require(kept, f"{who}: run() wrote into its inputs")
    twice = [array.copy() for array in session.run(batch)]
    same = all(sqnr_db(a, b) >= _SAME_DB for a, b in zip(got, twice, strict=True))
    require(same, f"{who}: the same inputs give other outputs the second time")
    if model.representation in MADE:
        for name, ours, reference in zip(model.outputs, got, outputs(model, batch), strict=True):
            require(
                ours.shape == reference.shape,
                f"{who}: output {name} has shape {ours.shape}, the model's is {reference.shape}",
            )
            ratio = sqnr_db(reference, ours)
            require(
                ratio >= _SAME_DB,
                f"{who}: output {name} is not what the model computes ({ratio:.0f} dB)",
            )


def _check_placement(who: str, placement: Placement) -> None:
    require(
        isinstance(placement, Placement),
        f"{who}: placement() gave {type(placement).__name__}, no Placement",
    )
    nodes = placement.nodes
    counted = bool(nodes) and all(isinstance(n, int) and n > 0 for n in nodes.values())
    require(counted, f"{who}: placement().nodes is {dict(nodes)}: count the nodes by device")
    require(bool(placement.precision), f"{who}: placement().precision is empty")
    for name in ("float_reasons", "kernels"):
        counts: Mapping[str, int] = vars(placement)[name]
        fine = all(isinstance(n, int) and n >= 0 for n in counts.values())
        require(fine, f"{who}: placement().{name} is {dict(counts)}: give counts")
    total, integer = placement.quantizable, placement.integer
    require(total >= 0, f"{who}: placement().quantizable is {total}")
    fits = integer is None or 0 <= integer <= total
    require(fits, f"{who}: placement().integer is {integer} of {total} quantizable operators")
    threads = placement.threads
    require(threads is None or threads >= 1, f"{who}: placement().threads is {threads}")
    try:
        json.dumps(dict(placement.details))
    except TypeError as error:
        require(False, f"{who}: placement().details cannot be written as JSON: {error}")


def _check_profile(who: str, profile: Mapping[str, float]) -> None:
    require(isinstance(profile, Mapping), f"{who}: profile() gave {type(profile).__name__}")
    for kind, ms in profile.items():
        fine = isinstance(kind, str) and math.isfinite(ms) and ms >= 0
        require(fine, f"{who}: profile() says {ms!r} ms for {kind!r}")
