"""Unstructured pruning of an ONNX file: single weights become zero, the graph stays as it is.

For models that exist in ONNX alone. Magnitude pruning (Han et al. 2015, "Learning both weights and
connections for efficient neural networks"). Zeros are stored and multiplied like any other number:
the plain file and the latency stay, only a zipped file becomes smaller. Whole channels are removed
by :mod:`pqbench.compress.prune_onnx_channels`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.compress.calibration import refuse_quantized
from pqbench.compress.onnx_ready import require_share
from pqbench.compress.prune_unstructured import NO_FASTER
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

FILE = "model.onnx"
SCOPES = ("global", "layer")
OPERATORS = tuple(onnx_graph.WEIGHT_INPUTS)
Weights = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class PruneOnnx(Step):
    """Zero the weights of least magnitude in convolutions, matrix products and recurrent layers.

    Attributes:
        sparsity: Share of these weights set to zero, in (0, 1).
        scope: ``global`` ranks all weights together, ``layer`` takes the same share of every layer.
        exclude: Names of nodes whose weights are left alone.
    """

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("onnx",)
    why_not: ClassVar[Mapping[Representation, str]] = {
        "torch": "it edits ONNX files, and there is no way back; a network in PyTorch is pruned by "
        "prune_unstructured"
    }

    sparsity: float = 0.5
    scope: str = "global"
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.sparsity < 1.0:
            raise ConfigError(f"sparsity must lie between 0 and 1, got {self.sparsity}")
        if self.scope not in SCOPES:
            raise ConfigError(
                f"prune_onnx.scope '{self.scope}' is unknown",
                hint=f"choose one of {', '.join(SCOPES)}",
            )

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:  # noqa: ARG002
        """Zero weights and save ``model.onnx``; nodes and shapes stay.

        Raises:
            ConfigError: ``exclude`` names a node that there is not.
            UnsupportedError: The model is quantized already, has no weights of the kind, or has
                more than half of its parameters elsewhere.
        """
        import onnx
        from onnx import numpy_helper

        start = time.perf_counter()
        model = onnx.load(artifact.path)
        refuse_quantized(model, "prune_onnx")
        tensors = onnx_graph.constants(model.graph)
        weights = {
            name: numpy_helper.to_array(tensors[name])
            for name in self._names(model)
            if onnx_graph.is_float(tensors[name])
        }
        if not weights:
            raise UnsupportedError(
                "prune_onnx found no weights to zero in this model",
                hint=f"it needs {', '.join(OPERATORS)} nodes with constant floating-point weights",
            )
        share = None
        if not self.exclude:  # else the user has said which are left alone
            reached = sum(value.size for value in weights.values())
            share = require_share(reached, model, "prune_onnx", "finds", tables=False)
        pruned = self._zeroed(weights)
        for name, value in pruned.items():
            tensors[name].CopyFrom(numpy_helper.from_array(value, name))
        onnx_graph.save(model, workdir / FILE)
        total = sum(value.size for value in pruned.values())
        zeros = sum(int((value == 0).sum()) for value in pruned.values())
        entry = LineageEntry(
            action="prune_onnx",
            seconds=time.perf_counter() - start,
            config={**asdict(self), "exclude": list(self.exclude)},
            details={
                "weights": total,
                "share_of_parameters": share,
                "zero_weights": zeros,
                "zero_share": zeros / total,
                "layers": {name: float((value == 0).mean()) for name, value in pruned.items()},
                "speed": NO_FASTER,
            },
        )
        return artifact.derive(workdir, FILE, entry)

    def _names(self, model: onnx.ModelProto) -> list[str]:
        """Initializers that are weights of an operator of the kind, each once."""
        nodes = {node.name for node in model.graph.node}
        unknown = [name for name in self.exclude if name not in nodes]
        if unknown:
            raise ConfigError(
                f"prune_onnx.exclude: the graph has no node '{unknown[0]}'",
                hint="names are those that a viewer such as Netron shows",
            )
        return onnx_graph.layer_weights(model.graph, tuple(self.exclude))

    def _zeroed(self, weights: Weights) -> dict[str, npt.NDArray[Any]]:
        """Copies of the weights, those of least magnitude at zero."""
        if self.scope == "layer":
            return {
                name: _cut(value, _limit([value], self.sparsity)) for name, value in weights.items()
            }
        limit = _limit(list(weights.values()), self.sparsity)
        return {name: _cut(value, limit) for name, value in weights.items()}


def _limit(values: Sequence[npt.NDArray[Any]], share: float) -> float:
    """The magnitude at and below which ``share`` of all values lie."""
    magnitudes = np.concatenate([np.abs(value).ravel().astype(np.float32) for value in values])
    count = max(1, round(share * magnitudes.size))
    return float(np.partition(magnitudes, count - 1)[count - 1])


def _cut(value: npt.NDArray[Any], limit: float) -> npt.NDArray[Any]:
    return np.where(np.abs(value) <= limit, np.zeros_like(value), value)
