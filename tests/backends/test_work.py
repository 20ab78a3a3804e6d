"""Shares of multiply-accumulates, as two runtimes executed them, against sums by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from torch import nn

from pqbench.backends.openvino.backend import OpenvinoBackend
from pqbench.backends.openvino.graph import products as openvino_products
from pqbench.backends.ort.backend import OrtBackend
from pqbench.backends.work import Product, integer_share, macs
from pqbench.core.artifact import Artifact, TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter

SIZE = 24
# 3x3 from 3 to 32 channels; 3x3 by channel; 1x1 to 64, a third of the groups; a Linear layer
BY_HAND = {
    "wide": SIZE**2 * 32 * 3 * 9,
    "depthwise": SIZE**2 * 32 * 9,
    "point": SIZE**2 * 64 * 32,
    "linear": 64 * 10,
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.point = nn.Conv2d(32, 64, 1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.point(torch.relu(self.depthwise(torch.relu(self.wide(x))))))
        return self.linear(x.mean((2, 3)))


class Readings(CalibrationDataReader):
    def __init__(self) -> None:
        noise = np.random.default_rng(0)
        self.left = [{"x": noise.random((1, 3, SIZE, SIZE), np.float32)} for _ in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def artifact(folder: Path, file: str, shape: tuple[int | None, ...]) -> Artifact:
    return Artifact("onnx", folder, file, (TensorSpec("x", shape),), ("y",))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    torch.onnx.export(
        Net().eval(), (torch.rand(1, 3, SIZE, SIZE),), folder / "net.onnx",
        input_names=["x"], output_names=["y"], dynamo=False,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("left_out", [(), ("/wide/Conv",), ("/point/Conv", "/linear/Gemm")])
@pytest.mark.parametrize("backend", [OrtBackend(1), OpenvinoBackend(1)])
def test_int8_macs_share_is_that_of_the_layers_that_were_quantized(
    backend: OrtBackend | OpenvinoBackend, left_out: tuple[str, ...], exported: Path
) -> None:
    quantize_static(
        exported / "net.onnx", exported / "int8.onnx", Readings(), per_channel=True,
        nodes_to_exclude=list(left_out),
    )  # fmt: skip
    model = artifact(exported, "int8.onnx", (None, 3, SIZE, SIZE))
    if isinstance(backend, OpenvinoBackend):
        import openvino as ov

        ov.save_model(ov.convert_model(exported / "int8.onnx"), exported / "int8.xml", False)
        model = Artifact("openvino", exported, "int8.xml", model.inputs, model.outputs)
    session = backend.load(model, [1])
    placement = session.placement()
    session.close()
    float_work = sum(work for name, work in BY_HAND.items() if any(name in o for o in left_out))
    expected = 1 - float_work / sum(BY_HAND.values())
    assert placement.int8_macs_share == pytest.approx(expected, abs=0.005)
    assert placement.int8_share == pytest.approx(1 - len(left_out) / 4)


def test_openvino_products_do_the_work_of_an_lstm(tmp_path: Path) -> None:
    import openvino as ov

    network = nn.LSTM(16, 32, batch_first=True).eval()
    torch.onnx.export(
        network, (torch.rand(1, 7, 16),), tmp_path / "lstm.onnx", dynamo=False, input_names=["x"]
    )
    compiled = ov.Core().compile_model(tmp_path / "lstm.onnx", "CPU")
    work = sum(macs(product) or 0 for product in openvino_products(compiled))
    assert work == 7 * 4 * 32 * (16 + 32)


def test_integer_share_is_unknown_where_work_is() -> None:
    known = Product("matmul", [[1, 8]], [1, 4], integer=True)
    assert integer_share([known, Product("matmul", [[1, 8]], [1, 12], integer=False)]) == 0.25
    assert integer_share([known, Product("Einsum", [[1, 8]], [1, 4], integer=False)]) is None
    assert integer_share([known, Product("convolution", [[1, 3, 8, 8], []], [1, 4], True)]) is None
    assert integer_share([]) is None


def test_macs_of_attention_are_scores_and_their_sum() -> None:
    heads = [1, 4, 10, 16]
    assert macs(Product("attention", [heads, heads, heads], heads, False)) == 2 * 4 * 10 * 10 * 16
