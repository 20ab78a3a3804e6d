"""The stages of an experiment, as they run in their own process: each wires one package to files.

Every function takes its work folder and JSON-ready arguments and returns a JSON-ready dict; paths
among the arguments are folders that earlier stages made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pqbench.core.artifact import Artifact, Representation
from pqbench.core.instantiate import make
from pqbench.core.split import PreparedSplit
from pqbench.core.step import Step, StepData
from pqbench.core.task import SplitRequest
from pqbench.experiment.tasks import get_task
from pqbench.models.settings import NO_TASK, GivenAs, ModelSettings

PARITY_SAMPLES = 32
EXAMPLES = 4  # real inputs on which a given network is tried before anything else


def prepare_split(workdir: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Decode or tokenize one split into ``workdir``, as its task wants it."""
    asked = SplitRequest.from_plain(request)
    prepared = get_task(asked.task).prepare(asked, workdir)
    if asked.onnx_file is not None and (asked.task != NO_TASK or prepared.normalization):
        from pqbench.models.onnx.inputs import fit_split

        prepared = fit_split(prepared, **asked.onnx_file)
    return {"count": prepared.count, "notes": list(prepared.notes)}


def take_samples(workdir: Path, split: str, count: int, seed: int) -> dict[str, Any]:
    """A part of a prepared split, to be scored in its place."""
    taken = PreparedSplit.load(split).take(count, workdir, seed)
    return {"count": taken.count, "notes": list(taken.notes)}


def prepare_model(
    workdir: Path,
    model: Mapping[str, Any],
    dataset_name: str,
    scratch_ok: bool,
    split: str,
    imagenet_indices: list[int] | None,
    seed: int,
    upgrade: bool = False,
    train_head: bool = False,
) -> dict[str, Any]:
    """Build the network with its weights and a head for the data set's classes."""
    from pqbench.models.onnx.prepare import prepare_onnx
    from pqbench.models.prepare import prepare_model as prepare

    settings, prepared = ModelSettings.from_plain(model), PreparedSplit.load(split)
    if settings.representation == GivenAs.onnx and settings.task == NO_TASK:
        from pqbench.models.onnx.tensors import prepare_tensors

        artifact = prepare_tensors(
            settings,
            input_specs=prepared.specs(),
            example=prepared.feed(prepared.spread(EXAMPLES)),
            folder=workdir,
            upgrade=upgrade,
        )
        notes = artifact.lineage[0].details["notes"]
        return {"weights": "file", "needs_fit": None, "card": {}, "notes": notes}
    if settings.representation == GivenAs.onnx:
        artifact = prepare_onnx(
            settings,
            classes=prepared.classes,
            imagenet_indices=imagenet_indices,
            input_specs=prepared.specs(),
            example=prepared.feed(prepared.spread(EXAMPLES)),
            folder=workdir,
            upgrade=upgrade,
        )
        notes = artifact.lineage[0].details["notes"]
        return {"weights": "file", "needs_fit": None, "card": {}, "notes": notes}
    _, weights = prepare(
        settings,
        classes=prepared.classes,
        dataset_name=dataset_name,
        imagenet_indices=imagenet_indices,
        input_specs=prepared.specs(),
        folder=workdir,
        seed=seed,
        scratch_ok=scratch_ok,
        example=prepared.feed(prepared.spread(EXAMPLES)),
        train_head=train_head,
    )
    return {
        "weights": weights.source,
        "needs_fit": weights.needs_fit,
        "card": dict(weights.card),
        "notes": list(weights.notes),
    }


def fit(
    workdir: Path,
    artifact: str,
    train: str,
    scored: str,
    method: str,
    head: str,
    settings: Mapping[str, Any],
    seed: int,
    threads: int,
    resume: str | None = None,
) -> dict[str, Any]:
    """Teach the network the data set's classes, on images proved to be none of the scored ones."""
    from pqbench.data.prepare import assert_disjoint
    from pqbench.training.fit import fit_artifact

    assert_disjoint(PreparedSplit.load(train), PreparedSplit.load(scored))
    result = fit_artifact(
        Artifact.load(artifact),
        method=method,
        head=head,
        settings=dict(settings),
        train=PreparedSplit.load(train),
        workdir=workdir,
        seed=seed,
        threads=threads,
        resume=Path(resume) if resume else None,
    )
    return dict(result.lineage[-1].details)


def apply_step(
    workdir: Path,
    name: str,
    step: Mapping[str, Any],
    artifact: str,
    train: str,
    scored: str,
    clean: str | None,
    teacher: str | None,
    seed: int,
    threads: int,
    resume: str | None = None,
) -> dict[str, Any]:
    """Run one step of the recipe, on images proved to be none of the scored ones."""
    from pqbench.data.prepare import assert_disjoint

    for other in filter(None, (scored, clean)):
        assert_disjoint(PreparedSplit.load(train), PreparedSplit.load(other))
    data = StepData(
        train=PreparedSplit.load(train),
        seed=seed,
        threads=threads,
        teacher=Artifact.load(teacher) if teacher else None,
        resume=Path(resume) if resume else None,
    )
    result = make(step, f"compress.{name}", Step).apply(Artifact.load(artifact), data, workdir)
    return dict(result.lineage[-1].details)


def convert(
    workdir: Path, artifact: str, to: Representation, split: str, task: str = "classification"
) -> dict[str, Any]:
    """Convert to another representation; parity on real inputs is part of it."""
    from pqbench.export.convert import convert as convert_artifact

    prepared = PreparedSplit.load(split)
    batch = prepared.feed(prepared.spread(PARITY_SAMPLES))
    least = get_task(task).min_agreement
    result = convert_artifact(Artifact.load(artifact), to, batch, workdir, min_agreement=least)
    return dict(result.lineage[-1].details)


def measure_files(workdir: Path, artifact: str) -> dict[str, Any]:
    """Bytes of what is deployed, plain and zipped."""
    from pqbench.measure.size import measure_files as measure

    del workdir
    return dict(measure(Artifact.load(artifact)))


def count_work(workdir: Path, network: str) -> dict[str, Any]:
    """Parameters and MACs."""
    from pqbench.measure.size import count_work as count

    del workdir
    return dict(count(Artifact.load(network)))
