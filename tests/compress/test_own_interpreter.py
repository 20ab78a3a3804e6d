"""A quantizer in an environment of its own: what it is told, what comes back, how it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from compress_models import make_onnx, make_tiny
from probe_wheel import write_wheel

from pqbench.assets.converters import Environment
from pqbench.assets.install_converters import install
from pqbench.compress.own_interpreter import quantize_artifact
from pqbench.core.artifact import Artifact
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData

PROBE = Environment(
    "probe", "a probe", ("pqbench-probe==1.0",), ("pqbench_probe",), "1 MB", ("onnx",)
)
HEAD = """\
import json, sys
import numpy as np, onnx
job = json.load(open(sys.argv[1]))
model = onnx.load(job["model"])
"""
# The input through one pair of quantizers: the least that a quantized file is.
QUANTIZE = """\
graph = model.graph
for name, value in (("scale", np.float32(0.1)), ("zero", np.uint8(128))):
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
for node in graph.node:
    for place, name in enumerate(node.input):
        if name == graph.input[0].name:
            node.input[place] = "real"
pair = (("QuantizeLinear", [graph.input[0].name, "scale", "zero"], "integer"),
        ("DequantizeLinear", ["integer", "scale", "zero"], "real"))
nodes = [onnx.helper.make_node(kind, names, [out]) for kind, names, out in pair]
for place, node in enumerate(nodes):
    graph.node.insert(place, node)
"""
TAIL = """\
onnx.save(model, job["target"])
samples = {name: np.load(path) for name, path in job["samples"].items()}
told = {
    "inputs": {name: [list(a.shape), str(a.dtype), float(a.sum())] for name, a in samples.items()},
    "settings": job["settings"],
    "versions": {"numpy": np.__version__},
}
json.dump(told, open(job["report"], "w"))
"""


@pytest.fixture(scope="module")
def exact(split: PreparedSplit, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("probe")
    return make_onnx(make_tiny(folder / "source", split), folder / "onnx")


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("cache")
    write_wheel(folder / "wheels", "pqbench-probe", "1.0", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder / "wheels"))
        install(PROBE, lambda _: None)
        yield


def run(code: str, exact: Artifact, split: PreparedSplit, folder: Path) -> Artifact:
    program = folder / "program.py"
    program.write_text(HEAD + code)
    (folder / "result").mkdir()
    data = StepData(split, seed=0, threads=1)
    config = {"calibration_size": 6}
    return quantize_artifact(
        exact, data, folder / "result", "probe_int8", PROBE, program, 6, config, {"bits": 8}
    )


def test_program_gets_all_samples_and_its_report_is_in_the_lineage(
    exact: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    result = run(QUANTIZE + TAIL, exact, split, tmp_path)
    assert sorted(path.name for path in (tmp_path / "result").iterdir()) == [
        "artifact.json",
        "model.onnx",
    ]
    entry = result.lineage[-1]
    assert (entry.action, entry.config) == ("probe_int8", {"calibration_size": 6})
    assert entry.details["calibration_size"] == 6
    assert entry.details["settings"] == {"bits": 8}
    assert set(entry.details["tool_versions"]) == {"pqbench-probe", "onnx", "numpy"}
    shape, dtype, total = entry.details["inputs"]["input"]
    assert (shape, dtype) == ([6, 3, 64, 64], "float32")
    images = [split.feed(slice(i, i + 1))["input"] for i in split.spread(6, 0)]
    assert total == pytest.approx(float(np.concatenate(images).sum()), rel=1e-4)


def test_program_that_fails_is_told_by_its_last_line(
    exact: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=r"a probe refuses .*status 1.*: KeyError: 'scale'"):
        run("raise KeyError('scale')", exact, split, tmp_path)


def test_file_without_quantizers_is_no_result(
    exact: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="probe_int8 found nothing to quantize"):
        run(TAIL, exact, split, tmp_path)


def test_model_that_is_quantized_is_refused(
    exact: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    (tmp_path / "once").mkdir()
    once = run(QUANTIZE + TAIL, exact, split, tmp_path / "once")
    with pytest.raises(UnsupportedError, match="quantized already"):
        run(QUANTIZE + TAIL, once, split, tmp_path)


def test_environment_that_is_missing_stops_it_first(
    exact: Artifact, split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UnavailableError, match="a probe, which has an environment") as caught:
        run(TAIL, exact, split, tmp_path)
    assert caught.value.hint == "python -m pqbench.runtimes install probe"
