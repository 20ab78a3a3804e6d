from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.nets.checkpoint import build_network, save_network

SIDE = 32
Feed = dict[str, np.ndarray]


def _layer(target: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"_target_": f"torch.nn.{target}", "_args_": list(args), **kwargs}


TINY = _layer(
    "Sequential",
    _layer("Conv2d", 3, 16, 3, stride=2, bias=False),
    _layer("BatchNorm2d", 16),
    _layer("ReLU"),
    _layer("Conv2d", 16, 16, 3, groups=16, padding=1),
    _layer("ReLU6"),
    _layer("Conv2d", 16, 32, 1),
    _layer("ReLU"),
    _layer("AdaptiveAvgPool2d", 1),
    _layer("Flatten"),
    _layer("Linear", 32, 10),
)


@pytest.fixture(scope="session")
def images() -> Feed:
    rng = np.random.default_rng(0)
    return {"image": rng.standard_normal((9, 3, SIDE, SIDE)).astype(np.float32)}


@pytest.fixture
def take(images: Feed) -> Callable[[int], Feed]:
    return lambda count: {k: np.ascontiguousarray(v[:count]) for k, v in images.items()}


@pytest.fixture(scope="session")
def torch_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    import torch

    torch.manual_seed(0)
    network = build_network(TINY)
    network[1].momentum = None  # type: ignore[index,union-attr]
    with torch.no_grad():
        network.train()(torch.randn(16, 3, SIDE, SIDE))
    return save_network(
        network.eval(),
        TINY,
        tmp_path_factory.mktemp("tiny") / "torch",
        (TensorSpec("image", (None, 3, SIDE, SIDE)),),
        ("logits",),
        (LineageEntry("source", 0.0),),
    )


@pytest.fixture(scope="session")
def onnx_artifact(
    torch_artifact: Artifact, images: Feed, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    from pqbench.export import export_onnx

    return export_onnx(torch_artifact, tmp_path_factory.mktemp("onnx"), images)


@pytest.fixture(scope="session")
def openvino_artifact(
    onnx_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    from pqbench.export import convert_openvino

    return convert_openvino(onnx_artifact, tmp_path_factory.mktemp("openvino"))


@pytest.fixture(scope="session")
def ort_int8(
    onnx_artifact: Artifact, images: Feed, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """Static Q/DQ, weights per channel, made for ONNX Runtime."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [images]

        def get_next(self) -> Feed | None:
            return self.left.pop() if self.left else None

    folder = tmp_path_factory.mktemp("ort_int8")
    quantize_static(
        onnx_artifact.path,
        folder / "model.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return replace(onnx_artifact, folder=folder)


@pytest.fixture(scope="session")
def nncf_int8(
    onnx_artifact: Artifact, images: Feed, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """NNCF's default on ONNX: activations of depthwise convolutions per channel."""
    import nncf
    import onnx

    folder = tmp_path_factory.mktemp("nncf_int8")
    quantized = nncf.quantize(onnx.load(onnx_artifact.path), nncf.Dataset([images]), subset_size=1)
    onnx.save(quantized, folder / "model.onnx")
    return replace(onnx_artifact, folder=folder)
