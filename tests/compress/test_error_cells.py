"""The RuntimeError cells of docs/predecessors/techniques.md: each as it was, and as it is here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compress_models import make_onnx, make_tiny

from pqbench.backends.tensorrt.api import load_library
from pqbench.backends.tensorrt.build import BuildOptions, build, profile_ranges
from pqbench.backends.torch.backend import TorchBackend
from pqbench.compress.ort_int8 import OrtInt8
from pqbench.compress.torch_dynamic import TorchDynamic
from pqbench.core.errors import ConfigError, UnavailableError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.machine.cpu import cpu_saturates_int8
from pqbench.nets.checkpoint import load_network


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


def test_a_scripted_network_takes_half_precision_only_as_a_whole(
    tmp_path: Path, data: StepData
) -> None:
    """FP16 JIT: what was traced in float32 has float32 weights, and no autocast around it."""
    source = make_tiny(tmp_path / "source", data.train)
    x = torch.from_numpy(data.train.feed(slice(0, 2))["input"])
    traced = torch.jit.freeze(torch.jit.trace(load_network(source), x))
    with pytest.raises(
        RuntimeError, match=r"expected scalar type Half but found Float|should be the same"
    ):
        traced(x.half())
    with pytest.raises(ConfigError, match="a frozen network is not cast"):
        TorchBackend(1, mode="script", precision="fp16", amp=True)
    session = TorchBackend(1, mode="script", precision="fp16", amp=False).load(source, [2])
    assert session.placement().precision == "f16"
    assert session.run({"input": x.numpy()})[0].shape == (2, 2)


def test_dynamic_int8_of_an_lstm_has_kernels_on_the_cpu_alone(
    tmp_path: Path, data: StepData
) -> None:
    """INT8 of the LSTM: PyTorch dispatches its integer layers to the CPU, and to no GPU."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if not has("aten::mm", "CUDA"):
        pytest.skip("this PyTorch was built without CUDA: it cannot be asked")
    for name in ("quantized::linear_dynamic", "aten::quantized_lstm.input"):
        assert has(name, "CPU") and not has(name, "CUDA")
    source = make_tiny(tmp_path / "source", data.train, recurrent=True)
    step = TorchDynamic(reduce_range=cpu_saturates_int8())
    result = step.apply(source, data, tmp_path / "int8")
    assert TorchBackend(1).load(result, [2]).placement().kernels["quantized_lstm"] == 1
    with pytest.raises(UnsupportedError, match="float32 on the CPU alone") as caught:
        TorchBackend(1, device="cuda").load(result, [2])
    assert "backend=torch" in caught.value.hint


def test_an_lstm_in_int8_becomes_a_tensorrt_engine(tmp_path: Path, data: StepData) -> None:
    """INT8 of the LSTM in TensorRT: quantized around the LSTM, in the form that TensorRT takes."""
    try:
        rtx = load_library("tensorrt_rtx")
    except UnavailableError as error:
        pytest.skip(str(error))
    source = make_tiny(tmp_path / "source", data.train, recurrent=True)
    step = OrtInt8(
        calibration_size=24, activation="int8", symmetric=True, quantize_bias=False,
        reduce_range=False,
    )  # fmt: skip
    folder = tmp_path / "int8"
    folder.mkdir()
    model = step.apply(make_onnx(source, tmp_path / "onnx"), data, folder)
    engine = build(rtx, model.path, profile_ranges(model, [1, 4], True), BuildOptions())
    assert engine.quantized and engine.plan
