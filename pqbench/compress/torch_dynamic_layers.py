"""Linear and LSTM layers that compute in PyTorch's dynamic integer kernels.

Their int8 weights and scales are plain buffers, so they are saved and loaded as any tensor; the
form that the kernels want is made of them before the first call. torch is imported with this
module, so it is imported when a network is built, never before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.nets.checkpoint import build_network


class DynamicLinear(nn.Module):
    """y = x W' + b with int8 weights, one scale per output.

    Args:
        in_features: Inputs.
        out_features: Outputs.
        bias: Whether there is one.
        reduce_range: Round activations to 7 bits.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool, reduce_range: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._reduce_range = reduce_range
        self._packed: Any = None
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    def take(self, layer: nn.Linear) -> None:
        """Round the weights of a float layer."""
        scale = (layer.weight.detach().abs().amax(1) / 127).clamp_min(1e-12)
        self.scale = scale
        self.weight = (layer.weight.detach() / scale[:, None]).round().to(torch.int8)
        self.bias = None if layer.bias is None else layer.bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if self._packed is None:
            zero = torch.zeros(self.out_features, dtype=torch.int64)
            weight = torch._make_per_channel_quantized_tensor(
                self.weight, self.scale.double(), zero, 0
            )
            self._packed = torch.ops.quantized.linear_prepack(weight, self.bias)
        y: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, self._reduce_range)
        return y


class DynamicLstm(nn.Module):
    """An LSTM with int8 matrices, one scale each.

    Args:
        input_size: Width of the input.
        hidden_size: Width of the state.
        num_layers: Layers.
        bias: Whether there are biases.
        batch_first: Inputs are (N, L, width) rather than (L, N, width).
        dropout: Between layers, in training alone; kept for the kernel's signature.
        bidirectional: Two directions.
        reduce_range: Round activations to 7 bits.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        reduce_range: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = dropout
        self._reduce_range = reduce_range
        self._cells: Any = None
        ways = 2 if bidirectional else 1
        self._names = [
            f"l{layer}{'_reverse' if way else ''}"
            for layer in range(num_layers)
            for way in range(ways)
        ]
        for number, name in enumerate(self._names):
            width = input_size if number < ways else ways * hidden_size
            for kind, columns in (("ih", width), ("hh", hidden_size)):
                shape = (4 * hidden_size, columns)
                self.register_buffer(f"weight_{kind}_{name}", torch.zeros(shape, dtype=torch.int8))
                self.register_buffer(f"scale_{kind}_{name}", torch.ones(()))
                self.register_buffer(f"bias_{kind}_{name}", torch.zeros(4 * hidden_size))

    def take(self, layer: nn.LSTM) -> None:
        """Round the matrices of a float layer."""
        for name in self._names:
            for kind in ("ih", "hh"):
                weight = getattr(layer, f"weight_{kind}_{name}").detach()
                scale = (weight.abs().amax() / 127).clamp_min(1e-12)
                setattr(self, f"scale_{kind}_{name}", scale)
                setattr(self, f"weight_{kind}_{name}", (weight / scale).round().to(torch.int8))
                if layer.bias:
                    bias = getattr(layer, f"bias_{kind}_{name}").detach().clone()
                    setattr(self, f"bias_{kind}_{name}", bias)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``nn.LSTM`` on a padded batch: outputs, and (hidden, cell) of the last step."""
        if self._cells is None:
            self._cells = [self._cell(name) for name in self._names]
        if state is None:
            batch = x.shape[0 if self.batch_first else 1]
            shape = (len(self._names), batch, self.hidden_size)
            state = (x.new_zeros(shape), x.new_zeros(shape))
        y, hidden, cell = torch.quantized_lstm(
            x, list(state), self._cells, True, self.num_layers, float(self.dropout), False,
            self.bidirectional, self.batch_first, dtype=torch.qint8, use_dynamic=True,
        )  # fmt: skip
        return y, (hidden, cell)

    def _cell(self, name: str) -> Any:
        packed = []
        for kind in ("ih", "hh"):
            scale = float(getattr(self, f"scale_{kind}_{name}"))
            weight = getattr(self, f"weight_{kind}_{name}")
            matrix = torch._make_per_tensor_quantized_tensor(weight, scale, 0)
            bias = getattr(self, f"bias_{kind}_{name}")
            packed.append(torch.ops.quantized.linear_prepack(matrix, bias))
        biases = [getattr(self, f"bias_{kind}_{name}") for kind in ("ih", "hh")]
        return torch.ops.quantized.make_quantized_cell_params_dynamic(
            *packed, *biases, self._reduce_range
        )


def replace_layers(network: nn.Module, names: Sequence[str], reduce_range: bool) -> None:
    """Put integer layers in the place of the named Linear and LSTM layers, with their weights."""
    for name in names:
        owner, _, leaf = name.rpartition(".")
        layer: Any = network.get_submodule(name)
        new: DynamicLinear | DynamicLstm
        if isinstance(layer, nn.LSTM):
            new = DynamicLstm(
                layer.input_size, layer.hidden_size, layer.num_layers, layer.bias,
                layer.batch_first, layer.dropout, layer.bidirectional, reduce_range,
            )  # fmt: skip
        else:
            new = DynamicLinear(
                layer.in_features, layer.out_features, layer.bias is not None, reduce_range
            )
        new.take(layer)
        setattr(network.get_submodule(owner), leaf, new.eval())


def quantized_network(network: str, layers: Sequence[str], reduce_range: bool) -> nn.Module:
    """Build a network with integer layers, for a checkpoint's tensors.

    Args:
        network: The float network's ``_target_`` and arguments, as JSON.
        layers: Dotted names of the layers to replace.
        reduce_range: Round activations to 7 bits.
    """
    built = build_network(json.loads(network))
    replace_layers(built, layers, reduce_range)
    return built
