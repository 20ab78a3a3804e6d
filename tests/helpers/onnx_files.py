"""Small ONNX files as other exporters write them, and what plain ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE = 32
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
Node = onnx.NodeProto
Array = npt.NDArray[Any]


def weights(classes: int = 2, channels: int = 3) -> dict[str, Array]:
    """Of two convolutions and a fully connected layer: 5,154 values by default."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        scale = np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 1
        return np.asarray(rng.standard_normal(shape) / scale, np.float32)

    return {
        "w1": draw(16, channels, 3, 3),
        "b1": draw(16),
        "w2": draw(32, 16, 3, 3),
        "b2": draw(32),
        "wf": np.asarray(8 * draw(32, classes), np.float32),
        "bf": draw(classes),
    }


def trunk(source: str = "x") -> list[Node]:
    """Two convolutions, mean over positions: ``f`` (N, 32)."""
    make = helper.make_node
    return [
        make("Conv", [source, "w1", "b1"], ["c1"], pads=[1] * 4, strides=[2, 2], name="conv1"),
        make("Relu", ["c1"], ["r1"], name="relu1"),
        make("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1] * 4, name="conv2"),
        make("Relu", ["c2"], ["r2"], name="relu2"),
        make("GlobalAveragePool", ["r2"], ["g"], name="gap"),
        make("Flatten", ["g"], ["f"], name="flat"),
    ]


def head(target: str = "y") -> list[Node]:
    """The fully connected layer, to ``target`` (N, classes)."""
    return [helper.make_node("Gemm", ["f", "wf", "bf"], [target], name="fc")]


def info(name: str, shape: Sequence[Any] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def write(
    path: Path,
    nodes: Sequence[Node],
    stored: dict[str, Array] | None = None,
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    opset: int = 17,
) -> Path:
    """A model of these nodes; by default it takes images ``x`` and gives ``y`` (N, 2)."""
    stored = weights() if stored is None else stored
    graph = helper.make_graph(
        list(nodes),
        "g",
        list(inputs or [info("x", ["N", 3, SIDE, SIDE])]),
        list(outputs or [info("y", ["N", 2])]),
        [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def write_small(path: Path) -> None:
    """Convolution, ReLU, mean, product: two classes."""
    rng = np.random.default_rng(0)
    stored = {"w": (8, 3, 3, 3), "m": (8, 2)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("MatMul", ["f", "m"], ["scores"]),
        ],
        "net",
        [info("x", ["n", 3, SIDE, SIDE])],
        [info("scores", ["n", 2])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in stored.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)


def constants(stored: dict[str, Array]) -> list[Node]:
    """The same weights as ``Constant`` nodes."""
    return [
        helper.make_node("Constant", [], [k], value=numpy_helper.from_array(v, k))
        for k, v in stored.items()
    ]


def draw_images(folder: Path, count: int = 12, names: Sequence[str] = ("a", "b")) -> Path:
    """``folder/{train,val}/<class>/<n>.png``: noise of two colours, ``SIDE`` px square."""
    rng = np.random.default_rng(5)
    for split in ("train", "val"):
        for k, name in enumerate(names):
            for i in range(count):
                tint = rng.integers(0, 120, 3) + (60 if (i + k) % 2 else 0)
                noise = rng.integers(0, 76, (SIDE, SIDE, 3)) + tint
                path = folder / split / name / f"{i:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(noise.astype(np.uint8)).save(path)
    return folder


def read_images(folder: Path) -> tuple[Array, Array]:
    """Pixels (N, H, W, 3) uint8 and labels of the scored split, in torchvision's order."""
    pixels, labels = [], []
    for label, name in enumerate(sorted(p.name for p in (folder / "val").iterdir())):
        for path in sorted((folder / "val" / name).iterdir()):
            pixels.append(np.asarray(Image.open(path).convert("RGB")))
            labels.append(label)
    return np.stack(pixels), np.asarray(labels)


def normalized(pixels: Array) -> Array:
    """(N, 3, H, W) float32 by ImageNet's mean and standard deviation."""
    scaled = (pixels.astype(np.float64) / 255 - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


def run_plain(file: Path, *inputs: Array, outputs: Sequence[str] | None = None) -> list[Array]:
    """What ONNX Runtime computes, one sample at a time."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    rows = [
        session.run(outputs, {n: a[i : i + 1] for n, a in zip(names, inputs, strict=True)})
        for i in range(len(inputs[0]))
    ]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]
