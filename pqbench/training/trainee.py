"""The network of an artifact as a module to train, and the way back: from PyTorch or an ONNX file.

An ONNX file is trained as the graph that it is (:mod:`pqbench.nets.onnx_trainable`), and is asked
before and after whether file and module compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import ParityError, UnsupportedError
from pqbench.core.parity import sqnr_db
from pqbench.core.split import PreparedSplit
from pqbench.nets import onnx_constants, onnx_graph
from pqbench.nets.checkpoint import load_network, save_like
from pqbench.nets.layers import feed_tensors, torch_threads
from pqbench.training.batches import Batches

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from pqbench.nets.onnx_trainable import OnnxModule

SAME_DB = 60.0  # between two float32 runtimes rounding leaves 90 dB and more
SAMPLES = 4


@dataclass(frozen=True)
class Trainee:
    """What is trained.

    Attributes:
        network: In eval mode, on the CPU.
        artifact: Where it came from.
        save: Writes the trained network: a folder, and the lineage's entry without ``details`` of
            the file.
        details: For the lineage.
    """

    network: nn.Module
    artifact: Artifact
    save: Callable[[Path, LineageEntry], Artifact]
    details: Mapping[str, Any] = field(default_factory=dict)


def load_trainee(artifact: Artifact, train: PreparedSplit, threads: int) -> Trainee:
    """The network of a ``torch`` or ``onnx`` artifact, to be trained.

    Args:
        artifact: The model.
        train: The train split: an ONNX file is tried on a few of its samples.
        threads: Threads that torch may use.

    Raises:
        UnsupportedError: The file has an operator that PyTorch has no rule for, is not in float32,
            or gives no scores that can be trained.
        ParityError: Module and file compute something else.
    """
    if artifact.representation == "torch":
        network = load_network(artifact)
        return Trainee(network, artifact, lambda to, entry: save_like(network, artifact, to, entry))
    for name, form in train.forms.items():
        if form.dtype not in (None, "float32") or form.channels == 1:
            raise UnsupportedError(
                f"this ONNX file cannot be trained: images are trained on in float32 and colour, "
                f"its input {name} takes {form.dtype or 'float32'}"
                f"{', grey' if form.channels == 1 else ''}",
                hint="export the network before such conversions",
            )
    model, module = _load(artifact)
    with torch_threads(threads):
        before = _agreement(module, artifact, train)

    def save(folder: Path, entry: LineageEntry) -> Artifact:
        folder.mkdir(parents=True, exist_ok=True)
        onnx_graph.save(module.written(model), folder / artifact.file)
        made = artifact.derive(folder, artifact.file, entry)
        with torch_threads(threads):
            after = _agreement(module, made, train)
        entry = LineageEntry(
            entry.action, entry.seconds, entry.config, {**entry.details, "file_sqnr_db": after}
        )
        return artifact.derive(folder, artifact.file, entry)

    return Trainee(module, artifact, save, {"given_sqnr_db": before})


def check_side(trainee: Trainee, train: PreparedSplit, side: int | None) -> None:
    """Refuse to train an ONNX file at another size where its graph is made for one alone.

    Args:
        trainee: What is trained.
        train: Train split.
        side: Of the images, in pixels; None: the model's own.

    Raises:
        UnsupportedError: The graph cannot run on images of that side.
    """
    import torch

    if side is None or trainee.artifact.representation != "onnx":
        return
    feed = Batches(train, np.arange(2), 2, side, "none", seed=0, shuffle=False)
    images, _ = next(iter(feed))
    try:
        with torch.no_grad():
            trainee.network(*images)
    except (RuntimeError, ValueError, IndexError) as error:
        raise UnsupportedError(
            f"train_size={side}: the graph of {trainee.artifact.file} is made for one size alone",
            hint="train_size=null trains at that size",
        ) from error


def load_teacher(artifact: Artifact) -> nn.Module:
    """The network of a ``torch`` or ``onnx`` artifact, to be followed; in eval mode.

    Raises:
        UnsupportedError: As :func:`load_trainee`.
    """
    if artifact.representation == "torch":
        return load_network(artifact)
    return _load(artifact)[1]


def _load(artifact: Artifact) -> tuple[onnx.ModelProto, OnnxModule]:
    import onnx

    from pqbench.nets.onnx_trainable import OnnxModule

    model = onnx.load(artifact.path)
    onnx_constants.own_vectors(model.graph)
    kinds = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    known = onnx_graph.constants(model.graph)
    if any(known[name].data_type in kinds for name in onnx_graph.layer_weights(model.graph)):
        raise UnsupportedError(
            "this ONNX file cannot be trained: its weights are in half precision",
            hint="start from the float32 file",
        )
    module = OnnxModule(model, artifact.inputs[0].shape[0]).eval()
    scores = next((e.details.get("scores") for e in artifact.lineage if e.action == "source"), None)
    if scores == "class_ids" or (scores == "probabilities" and not module.softmax):
        raise UnsupportedError(
            f"this ONNX file cannot be trained: it gives {scores}, and no softmax at its end",
            hint="export the network with its logits or a softmax as its output",
        )
    return model, module


def _agreement(module: OnnxModule, artifact: Artifact, split: PreparedSplit) -> float:
    """How near module and file are on a few samples, in dB; a fixed batch is run one by one.

    Raises:
        ParityError: They compute something else.
        UnsupportedError: The module cannot run.
    """
    import torch

    names = [spec.name for spec in artifact.inputs]
    batch = artifact.inputs[0].shape[0] or SAMPLES
    count = max(2 * batch, SAMPLES) if artifact.inputs[0].shape[0] else SAMPLES
    count -= count % batch
    exact = _file_outputs(artifact, split, count, batch)
    module.as_file = True
    try:
        with torch.no_grad():
            got = module(*feed_tensors(split, names, slice(0, count)))
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise UnsupportedError(
            "this ONNX file cannot be trained: PyTorch cannot run its graph on a batch: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            hint="export it with a free batch and with constant folding",
        ) from error
    finally:
        module.as_file = False
    values = got.numpy()
    ratio = sqnr_db(exact, values) if exact.shape == values.shape else -np.inf
    if ratio < SAME_DB:
        raise ParityError(
            f"in PyTorch this ONNX file computes something else: {ratio:.0f} dB, at least "
            f"{SAME_DB:.0f} dB is asked",
            hint="please report it, with the operators of the file",
        )
    return round(ratio, 1)


def _file_outputs(
    artifact: Artifact, split: PreparedSplit, count: int, batch: int
) -> npt.NDArray[Any]:
    """The file's first output on the first samples, in ONNX Runtime as the graph is written."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in artifact.inputs]
    found = []
    for start in range(0, count, batch):
        arrays = split.feed(slice(start, start + batch))
        found.append(session.run(None, {name: arrays[name] for name in names})[0])
    return np.concatenate(found)
