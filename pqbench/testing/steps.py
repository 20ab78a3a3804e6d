"""Whether a step does what it declares."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from pqbench.core.artifact import DESCRIPTION, Artifact, Representation
from pqbench.core.errors import PqbenchError
from pqbench.core.parity import sqnr_db
from pqbench.core.split import PreparedSplit
from pqbench.core.step import Kind, Step, StepData
from pqbench.testing.require import (
    BrokenContract,
    instance,
    known_representations,
    require,
    sentences,
)
from pqbench.testing.samples import MADE, outputs, small_artifact, small_split

_SAME_DB = 40.0  # two runs of one step may differ by rounding, and by no more
_THREADS = 2


def check_step(
    step: Step | type[Step],
    artifact: Artifact | None = None,
    data: StepData | None = None,
    check_seed: bool = True,
) -> None:
    """Apply a step to a small model in each representation that it takes, and look at the result.

    Args:
        step: The step with its settings, or a class that needs none. Settings that suit 32 images
            of 24 px keep it quick.
        artifact: A model of your own, for a step that refuses a small convolutional network; then
            its representation alone is tried. It needs ``data`` that fit it.
        data: What the step is given; None makes 32 training images in 4 classes.
        check_seed: Apply it twice and compare, since ``StepData.seed`` seeds every draw.

    Raises:
        BrokenContract: What is declared is not well-formed or not what happens.
    """
    made = instance(step, Step)
    _check_declared(made)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if data is None:
            split = small_split(folder / "data")
            teacher = small_artifact(folder / "teacher", split, "torch")
            data = StepData(split, seed=0, threads=_THREADS, teacher=teacher)
        data = replace(data, resume=None)
        if artifact is not None:
            _check_apply(made, artifact, data, folder / "own", check_seed)
            return
        tried = [taken for taken in made.takes if taken in MADE]
        require(
            bool(tried),
            f"{type(made).__name__} takes {', '.join(made.takes)}, which check_step cannot make: "
            "give it an artifact",
        )
        for taken in tried:
            source = small_artifact(folder / taken, data.train, taken)
            _check_apply(made, source, data, folder / f"{taken}_result", check_seed)


def _check_declared(step: Step) -> None:
    who = type(step).__name__
    require(step.kind in get_args(Kind), f"{who}.kind is {step.kind!r}, not one of {Kind}")
    known_representations(who, "takes", step.takes)
    if step.gives is not None:
        known_representations(who, "gives", (step.gives,))
    require(isinstance(step.final, str), f"{who}.final is {step.final!r}, not a sentence")
    sentences(who, "limits", step.limits)
    sentences(who, "why_not", step.why_not.values())
    known_representations(who, "why_not", (*step.why_not, *step.takes))
    both = set(step.why_not) & {step.result_of(taken) for taken in step.takes}
    require(not both, f"{who} gives {', '.join(sorted(both))} and says in why_not why it does not")


def _check_apply(
    step: Step, artifact: Artifact, data: StepData, folder: Path, check_seed: bool
) -> None:
    who = f"{type(step).__name__} on {artifact.representation}"
    before = artifact.content_hash()
    result = _apply(who, step, artifact, data, folder / "first")
    require(artifact.content_hash() == before, f"{who}: apply changed the files it was given")
    expected = step.result_of(artifact.representation)
    _check_result(who, artifact, result, folder / "first", expected)
    if result.representation not in MADE:
        return
    got = _moved_outputs(who, result, folder / "moved", data.train)
    source = (
        outputs(artifact, data.train.feed(slice(None))) if artifact.representation in MADE else got
    )
    shapes = ([x.shape for x in source], [x.shape for x in got])
    require(shapes[0] == shapes[1], f"{who}: outputs were {shapes[0]}, now they are {shapes[1]}")
    finite = all(np.isfinite(x).all() for x in got)
    require(finite, f"{who}: the result computes infinities or not-a-number")
    if step.kind == "analyse":
        same = all(sqnr_db(a, b) >= _SAME_DB for a, b in zip(source, got, strict=True))
        require(same, f"{who}: an analysis must leave the model as it is, the outputs changed")
    if check_seed:
        again = _apply(who, step, artifact, data, folder / "second")
        twice = outputs(again, data.train.feed(slice(None)))
        same = all(sqnr_db(a, b) >= _SAME_DB for a, b in zip(got, twice, strict=True))
        require(
            same,
            f"{who}: applied twice with the same seed it gives two models; draw everything from "
            "data.seed",
        )


def _apply(who: str, step: Step, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
    workdir.mkdir(parents=True)
    try:
        result = step.apply(artifact, data, workdir)
    except PqbenchError as error:
        raise BrokenContract(
            f"{who}: refused: {error}; if that is right for a small convolutional network, give "
            "an artifact and data that it takes"
        ) from error
    require(isinstance(result, Artifact), f"{who}: apply gave {type(result).__name__}, no Artifact")
    return result


def _check_result(
    who: str, source: Artifact, result: Artifact, workdir: Path, expected: Representation
) -> None:
    require(
        result.representation == expected,
        f"{who}: the result is {result.representation}, declared is {expected} (gives)",
    )
    inside = result.folder.resolve() == workdir.resolve()
    require(inside, f"{who}: the result lies in {result.folder}, not in workdir")
    require(result.path.is_file(), f"{who}: the result's file {result.file} was not written")
    written = (workdir / DESCRIPTION).is_file()
    require(written, f"{who}: {DESCRIPTION} was not written: call derive() or save()")
    stored = Artifact.load(workdir)
    for name in ("representation", "file", "inputs", "outputs"):
        ours, theirs = vars(result)[name], vars(stored)[name]
        require(ours == theirs, f"{who}: {DESCRIPTION} says {name}={theirs}, the result {ours}")
    require(result.inputs == source.inputs, f"{who}: the inputs changed to {result.inputs}")
    require(
        len(result.outputs) == len(source.outputs),
        f"{who}: the outputs changed to {result.outputs}",
    )
    known = len(source.lineage)
    grown = len(result.lineage) > known and result.lineage[:known] == source.lineage
    require(grown, f"{who}: the lineage must be the one given and the step's own entry after it")
    require(len(stored.lineage) == len(result.lineage), f"{who}: {DESCRIPTION} has another lineage")
    entry = result.lineage[-1]
    require(bool(entry.action), f"{who}: the last lineage entry has no action")
    require(entry.seconds >= 0, f"{who}: the last lineage entry took {entry.seconds} s")
    json.dumps([dict(entry.config), dict(entry.details)])


def _moved_outputs(
    who: str, result: Artifact, folder: Path, split: PreparedSplit
) -> list[np.ndarray]:
    """Outputs of the result after its folder was moved: the cache moves it as well."""
    shutil.move(result.folder, folder)
    try:
        return outputs(Artifact.load(folder), split.feed(slice(None)))
    except Exception as error:
        raise BrokenContract(
            f"{who}: the result does not load and run from another folder: {error}"
        ) from error
