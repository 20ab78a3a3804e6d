"""Reference outputs of models for small devices: float32, as exact as the runtime can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import Artifact
from pqbench.machine.cpu import usable_cores
from pqbench.nets.static_shapes import static_shapes

Batch = Mapping[str, npt.NDArray[Any]]
Outputs = list[npt.NDArray[Any]]


def ncnn_outputs(artifact: Artifact, batch: Batch) -> Outputs:
    """Outputs of an ``ncnn`` artifact, stored and computed in float32. Arrays (n, ...)."""
    from pqbench.nets.ncnn_net import open_net, run_sample

    net = open_net(artifact.path, usable_cores())
    arrays = [np.ascontiguousarray(batch[spec.name]) for spec in artifact.inputs]
    rows = [
        run_sample(net, [array[i] for array in arrays], len(artifact.outputs))
        for i in range(len(arrays[0]))
    ]
    return [np.stack(column) for column in zip(*rows, strict=True)]


def mnn_outputs(artifact: Artifact, batch: Batch) -> Outputs:
    """Outputs of an ``mnn`` artifact: float32, convolutions without Winograd. Arrays (n, ...)."""
    from pqbench.nets.mnn_net import EXACT, MnnNet

    shapes = static_shapes(artifact, "MNN", 1)
    net = MnnNet(artifact.path, shapes, artifact.outputs, usable_cores(), EXACT)
    arrays = {spec.name: np.ascontiguousarray(batch[spec.name]) for spec in artifact.inputs}
    count = len(next(iter(arrays.values())))
    rows = [net.run({name: array[i : i + 1] for name, array in arrays.items()})
            for i in range(count)]  # fmt: skip
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def executorch_outputs(artifact: Artifact, batch: Batch) -> Outputs:
    """Outputs of an ``executorch`` artifact. Arrays (n, ...)."""
    import torch

    from pqbench.nets.executorch_net import open_method, run_sample

    threads = torch.get_num_threads()  # of the whole process
    arrays = [batch[spec.name] for spec in artifact.inputs]
    try:
        method = open_method(artifact.path, usable_cores())
        rows = [
            run_sample(method, [array[i : i + 1] for array in arrays])
            for i in range(len(arrays[0]))
        ]
    finally:
        torch.set_num_threads(threads)
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def litert_outputs(artifact: Artifact, batch: Batch) -> Outputs:
    """Outputs of a ``litert`` artifact. Arrays (n, ...)."""
    from pqbench.nets.litert_net import LitertNet

    shapes = static_shapes(artifact, "LiteRT", 1)
    net = LitertNet(artifact.path, list(shapes.values()), usable_cores())
    arrays = [batch[spec.name] for spec in artifact.inputs]
    rows = [net.run([array[i : i + 1] for array in arrays]) for i in range(len(arrays[0]))]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]
