"""Dynamic INT8 of Linear and LSTM layers in PyTorch itself, for backend torch.

Weights are stored as int8, activations are rounded for each batch by its own range, the products
run in PyTorch's integer kernels (``quantized::linear_dynamic``, ``quantized_lstm``). PyTorch's own
``quantize_dynamic`` is deprecated and its modules hold packed weights that only pickle can store;
the layers here call the same kernels and keep plain tensors.
https://docs.pytorch.org/docs/stable/quantization.html#post-training-dynamic-quantization
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import builder_of, load_network, save_network

if TYPE_CHECKING:
    from torch import nn

BUILDER = "pqbench.compress.torch_dynamic_layers.quantized_network"


@dataclass(frozen=True)
class TorchDynamic(Step):
    """Store Linear and LSTM weights as int8, one scale per output channel (LSTM: per matrix).

    Attributes:
        reduce_range: Round activations to 7 bits, against overflow on CPUs without VNNI.
        ignored_layers: Dotted names of modules to leave in float, with all inside.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    final: ClassVar[str] = "PyTorch's integer layers have no form in ONNX"
    limits: ClassVar[Sequence[str]] = (
        "models without Linear or LSTM layers: nothing to quantize (a CNN's convolutions have no "
        "dynamic kernels in PyTorch)",
    )

    reduce_range: bool = False
    ignored_layers: Sequence[str] = ()

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Replace the layers and save.

        Raises:
            UnsupportedError: There is no layer to quantize.
        """
        del data  # needs none
        start = time.perf_counter()
        network = load_network(artifact)
        names = chosen_layers(network, self.ignored_layers)
        if not names:
            raise UnsupportedError(
                "torch_dynamic found no Linear or LSTM layer to quantize in this model",
                hint="use compress=ort_int8 or nncf_int8 on another backend for convolutions",
            )
        from pqbench.compress.torch_dynamic_layers import replace_layers

        builder: dict[str, Any] = {
            "_target_": BUILDER,
            "network": json.dumps(
                builder_of(artifact)
            ),  # as text: a nested _target_ would be built
            "layers": names,
            "reduce_range": self.reduce_range,
        }
        replace_layers(network, names, self.reduce_range)
        entry = LineageEntry(
            action="torch_dynamic",
            seconds=time.perf_counter() - start,
            config={**asdict(self), "ignored_layers": list(self.ignored_layers)},
            details={"layers": names},
        )
        return save_network(
            network, builder, workdir, artifact.inputs, artifact.outputs,
            (*artifact.lineage, entry),
        )  # fmt: skip


def chosen_layers(network: nn.Module, ignored: Sequence[str]) -> list[str]:
    """Dotted names of the Linear and LSTM layers that may be replaced."""
    from torch import nn

    left = {id(m) for name in ignored for m in network.get_submodule(name).modules()}
    # The projections of attention are read by a fused kernel and never called.
    left |= {
        id(m)
        for attention in network.modules()
        if isinstance(attention, nn.MultiheadAttention)
        for m in attention.modules()
    }
    kinds = (nn.Linear, nn.LSTM)
    return [
        name
        for name, module in network.named_modules()
        if type(module) in kinds and id(module) not in left and not getattr(module, "proj_size", 0)
    ]
