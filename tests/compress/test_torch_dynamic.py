"""Integer layers of PyTorch: what they compute, how they are stored, what counts them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compress_models import make_tiny, make_torch, sqnr

from pqbench.backends.torch.backend import TorchBackend
from pqbench.compress.prune import Prune
from pqbench.compress.recipe import plan
from pqbench.compress.torch_dynamic import TorchDynamic
from pqbench.compress.torch_dynamic_layers import DynamicLinear, DynamicLstm
from pqbench.core.artifact import Artifact
from pqbench.core.errors import UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.machine.cpu import cpu_saturates_int8
from pqbench.nets.checkpoint import load_network

STEP = TorchDynamic(reduce_range=cpu_saturates_int8())


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


@pytest.mark.parametrize("recurrent", [False, True])
def test_torch_dynamic_runs_in_integer_kernels_and_reloads_exactly(
    recurrent: bool, tmp_path: Path, data: StepData
) -> None:
    source = make_tiny(tmp_path / "source", data.train, recurrent)
    result = STEP.apply(source, data, tmp_path)
    loaded = Artifact.load(tmp_path)
    names = ["lstm", "hidden", "head"] if recurrent else ["hidden", "head"]
    assert loaded.lineage[-1].details["layers"] == names
    assert result.path.stat().st_size < 0.45 * source.path.stat().st_size
    x = data.train.feed(slice(0, 8))
    sessions = [TorchBackend(threads=1).load(a, [8]) for a in (source, loaded, result)]
    exact, ours, again = (session.run(x)[0] for session in sessions)
    assert sqnr(exact, ours) > 20
    assert (ours == again).all()
    assert not (exact == ours).all()
    placement = sessions[1].placement()
    assert placement.integer == len(names)
    assert placement.quantizable == len(names) + 2
    kernels = {"linear_dynamic": 2, **({"quantized_lstm": 1} if recurrent else {})}
    assert {k: v for k, v in placement.kernels.items() if k in kernels} == kernels
    assert sessions[0].placement().integer == 0


@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [(1, False, True), (2, True, False)])
def test_lstm_is_the_float_one_up_to_rounding(layers: int, bidirectional: bool, bias: bool) -> None:
    torch.manual_seed(0)
    exact = torch.nn.LSTM(
        12, 16, layers, bias=bias, batch_first=True, bidirectional=bidirectional
    ).eval()
    ours = DynamicLstm(12, 16, layers, bias, True, 0.0, bidirectional, cpu_saturates_int8())
    ours.take(exact)
    x = torch.randn(3, 7, 12)
    with torch.no_grad():
        (y, (h, c)), (y_, (h_, c_)) = exact(x), ours(x)
    for theirs, rounded in ((y, y_), (h, h_), (c, c_)):
        assert theirs.shape == rounded.shape
        assert sqnr(theirs.numpy(), rounded.numpy()) > 20


def test_linear_weights_are_within_half_a_step() -> None:
    torch.manual_seed(0)
    exact = torch.nn.Linear(20, 5)
    ours = DynamicLinear(20, 5, True)
    ours.take(exact)
    error = (ours.weight * ours.scale[:, None] - exact.weight).abs()
    assert (error <= ours.scale[:, None] * 0.501).all()
    assert ours.weight.abs().amax(1).eq(127).all()


def test_torch_dynamic_after_prune_keeps_the_pruned_shapes(tmp_path: Path, data: StepData) -> None:
    source = make_tiny(tmp_path / "source", data.train)
    (tmp_path / "pruned").mkdir()
    (tmp_path / "small").mkdir()
    pruned = Prune(pruning_ratio=0.5, recalibrate_bn=0).apply(source, data, tmp_path / "pruned")
    result = STEP.apply(pruned, data, tmp_path / "small")
    hidden, head = (load_network(result).get_submodule(n) for n in ("hidden", "head"))
    assert (hidden.in_features, hidden.out_features, head.in_features) == (512, 32, 32)
    x = data.train.feed(slice(0, 8))
    exact, ours = (TorchBackend(threads=1).load(a, [8]).run(x)[0] for a in (pruned, result))
    assert sqnr(exact, ours) > 20


def test_torch_dynamic_refuses_a_network_of_convolutions(tmp_path: Path, data: StepData) -> None:
    source = make_torch("resnet18", tmp_path / "source", data.train)
    step = TorchDynamic(ignored_layers=["fc"])
    with pytest.raises(UnsupportedError, match="no Linear or LSTM"):
        step.apply(source, data, tmp_path)


def test_torch_dynamic_is_for_torch_alone() -> None:
    with pytest.raises(UnsupportedError, match="no form in ONNX"):
        plan({"torch_dynamic": TorchDynamic()}, "torch", ("onnx",), "ort")
