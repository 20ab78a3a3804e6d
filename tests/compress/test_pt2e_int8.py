"""PyTorch's own quantized graph: what it computes, how it is stored, where it may run."""

from __future__ import annotations

from pathlib import Path

import pytest
from compress_models import make_tiny, make_torch, sqnr

from pqbench.backends.torch.backend import TorchBackend
from pqbench.compress.prune import Prune
from pqbench.compress.pt2e_int8 import Pt2eInt8
from pqbench.compress.recipe import plan
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.machine.cpu import cpu_saturates_int8
from pqbench.nets.checkpoint import load_network
from pqbench.nets.layers import feed_tensors

STEP = Pt2eInt8(calibration_size=8, reduce_range=cpu_saturates_int8())


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


def test_pt2e_int8_of_a_pruned_network_runs_in_integer_kernels_and_reloads_exactly(
    tmp_path: Path, data: StepData
) -> None:
    folders = [tmp_path / name for name in ("source", "pruned", "result")]
    for folder in folders[1:]:
        folder.mkdir()
    source = make_tiny(folders[0], data.train)
    pruned = Prune(pruning_ratio=0.5, recalibrate_bn=0).apply(source, data, folders[1])
    result = STEP.apply(pruned, data, folders[2])
    loaded = Artifact.load(folders[2])
    assert loaded.representation == "torch_int8"
    assert loaded.lineage[-1].details["layers"] == 4
    assert result.path.stat().st_size < 0.4 * pruned.path.stat().st_size
    x = data.train.feed(slice(0, 8))
    exact = TorchBackend(threads=1).load(pruned, [8]).run(x)[0]
    session = TorchBackend(threads=1, mode="compile").load(loaded, [8])
    assert sqnr(exact, session.run(x)[0]) > 20
    placement = session.placement()
    assert (placement.integer, placement.quantizable) == (4, 4)
    tensors = feed_tensors(data.train, ["input"], slice(0, 8))
    first, second = (load_network(a)(*tensors) for a in (result, loaded))
    assert (first == second).all()
    assert sqnr(exact, first.detach().numpy()) > 20


def test_pt2e_int8_leaves_ignored_layers_in_float(tmp_path: Path, data: StepData) -> None:
    source = make_tiny(tmp_path / "source", data.train)
    (tmp_path / "result").mkdir()
    step = Pt2eInt8(calibration_size=4, ignored_layers=["head", "body.0"])
    result = step.apply(source, data, tmp_path / "result")
    assert result.lineage[-1].details["layers"] == 2
    with pytest.raises(UnsupportedError, match="no layer tail"):
        Pt2eInt8(ignored_layers=["tail"]).apply(source, data, tmp_path)
    with pytest.raises(ConfigError, match="calibration_size"):
        Pt2eInt8(calibration_size=0)


def test_pt2e_int8_names_what_cannot_be_captured(tmp_path: Path, data: StepData) -> None:
    source = make_tiny(tmp_path / "source", data.train)
    whole = Pt2eInt8(calibration_size=4, ignored_layers=["body", "hidden", "head"])
    with pytest.raises(UnsupportedError, match="nothing to quantize"):
        whole.apply(source, data, tmp_path)


@pytest.mark.parametrize(
    "backend",
    [
        TorchBackend(),
        TorchBackend(mode="script"),
        TorchBackend(mode="compile", freezing=False),
        TorchBackend(mode="compile", precision="bf16"),
    ],
)
def test_pt2e_int8_is_refused_where_it_would_compute_in_float(backend: TorchBackend) -> None:
    with pytest.raises(UnsupportedError, match=r"integer kernels.*torch_int8|torch_int8"):
        plan({"pt2e_int8": STEP}, "torch", backend.loads, "torch")


def test_resnet_compiled_from_the_quantized_graph_is_integer_throughout(
    tmp_path: Path, data: StepData
) -> None:
    source = make_torch("resnet8", tmp_path / "source", data.train)
    (tmp_path / "result").mkdir()
    result = STEP.apply(source, data, tmp_path / "result")
    session = TorchBackend(threads=1, mode="compile").load(result, [1])
    placement = session.placement()
    assert (placement.integer, placement.quantizable) == (10, 10)
