"""Quantizers in an environment of their own: the model and the images go there as files.

A program beside its step reads one ``job.json``: where the model is, where the quantized file goes,
the settings, and for each input of the model a ``.npy`` file of all samples. It ends by writing a
``report.json``, which becomes part of the lineage, with ``versions`` of what it used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pqbench.assets.converters import Environment, last_line, required, run_program
from pqbench.compress.calibration import Calibration, draw, refuse_quantized
from pqbench.compress.onnx_ready import pre_process
from pqbench.compress.ort_int8 import FILE, count_quantizers
from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import UnsupportedError
from pqbench.core.files import write_json
from pqbench.core.step import StepData


def quantize_artifact(
    artifact: Artifact,
    data: StepData,
    workdir: Path,
    step: str,
    environment: Environment,
    program: Path,
    calibration_size: int,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Artifact:
    """Prepare an ONNX file, have it quantized elsewhere, keep what came back.

    Args:
        artifact: Float ONNX model.
        data: Gives the images, and the seed of their choice.
        workdir: Folder for the result.
        step: The step's name.
        environment: The tool's.
        program: Takes the path of ``job.json``.
        calibration_size: Images to calibrate with.
        config: The step's settings, for the lineage.
        settings: What the program is told.

    Returns:
        The artifact of a file with Q/DQ pairs.

    Raises:
        UnavailableError: The environment is not there.
        UnsupportedError: The model is quantized already, or the tool refuses it or quantizes
            nothing in it.
    """
    import onnx

    start = time.perf_counter()
    required(environment)
    refuse_quantized(onnx.load(artifact.path, load_external_data=False), step)
    calibration = draw(artifact, data, calibration_size)
    target = workdir / FILE
    with TemporaryDirectory(dir=workdir) as scratch:
        ready = Path(scratch) / FILE
        pre_process(artifact.path, ready, step)
        told = quantize_elsewhere(environment, program, ready, target, calibration, settings)
    counts = count_quantizers(target)
    if not counts["quantize_nodes"]:
        raise UnsupportedError(
            f"{step} found nothing to quantize in this model",
            hint="it needs convolutions or matrix products with constant weights",
        )
    entry = LineageEntry(
        action=step,
        seconds=time.perf_counter() - start,
        config=dict(config),
        details={**calibration.details(), **counts, **told},
    )
    return artifact.derive(workdir, FILE, entry)


def quantize_elsewhere(
    environment: Environment,
    program: Path,
    source: Path,
    target: Path,
    calibration: Calibration,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Run a quantizer's program in its environment.

    Args:
        environment: The quantizer's.
        program: Takes the path of ``job.json``.
        source: Float ONNX file.
        target: Quantized ONNX file that the program writes.
        calibration: Samples, in the order in which the program gets them.
        settings: Of the quantizer, JSON-ready.

    Returns:
        What the program reports, and the quantizer's version.

    Raises:
        UnavailableError: The environment is not there.
        UnsupportedError: The quantizer refuses the model; the message has its last line.
    """
    versions = required(environment).versions()
    with TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch).absolute()
        report = folder / "report.json"
        job = {
            "model": str(source.absolute()),
            "target": str(target.absolute()),
            "report": str(report),
            "samples": write_samples(calibration, folder),
            "settings": dict(settings),
        }
        write_json(folder / "job.json", job)
        done = run_program(environment, program, [str(folder / "job.json")], cwd=folder)
        if done.returncode != 0 or not report.is_file():
            raise UnsupportedError(
                f"{environment.tool} refuses this model (exit status {done.returncode}): "
                f"{last_line(done.stderr)}",
                hint="ort_int8 and nncf_int8 are other tools",
            )
        told: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    versions |= told.pop("versions", {})
    return {**told, "tool": environment.tool, "tool_versions": versions}


def write_samples(calibration: Calibration, folder: Path) -> dict[str, str]:
    """Write all samples, one ``.npy`` file for each input; one sample in memory at a time.

    Returns:
        The files by input.
    """
    files: dict[str, str] = {}
    for place, name in enumerate(calibration.names):
        path = folder / f"input_{place}.npy"  # a name may hold what a path cannot
        first = calibration.feed(0)[name]
        shape = (len(calibration) * first.shape[0], *first.shape[1:])
        written = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=shape)
        for number, sample in enumerate(calibration):
            written[number * len(first) : (number + 1) * len(first)] = sample[name]
        written.flush()
        files[name] = str(path)
    return files
