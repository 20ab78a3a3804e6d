"""Gradients of strided pointwise convolutions, whose kernel for few channels is defective."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from pqbench.nets.strided import pixels_first

# A pruned ResNet's shortcut, trained as pqbench trains: channels last, two threads. Without the
# guard the process dies, hangs or prints other gradients, on a CPU with AVX-512.
TRAIN = """
import contextlib, sys
import torch
from pqbench.nets.strided import pixels_first

torch.manual_seed(0)
torch.set_num_threads(2)
layer = torch.nn.Conv2d(8, 16, 1, 2).to(memory_format=torch.channels_last)
data = torch.randn(32, 8, 64, 64).contiguous(memory_format=torch.channels_last)

def gradients(guard, onednn):
    layer.zero_grad()
    with guard, torch.backends.mkldnn.flags(enabled=onednn):
        layer(data).square().sum().backward()
    return [p.grad.clone() for p in layer.parameters()]

wanted = gradients(contextlib.nullcontext(), False)
for _ in range(10):
    guard = pixels_first() if sys.argv[1] == "guarded" else contextlib.nullcontext()
    torch.testing.assert_close(gradients(guard, True), wanted, rtol=1e-3, atol=1e-1)
print("equal")
"""


def test_gradients_of_few_channels_are_those_of_the_plain_kernels() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, "guarded"], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.parametrize("shape", [(4, 8, 9, 12), (2, 5, 7, 7)])
@pytest.mark.parametrize("stride", [2, (1, 3), (2, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_pixels_first_computes_what_the_layer_computes(
    shape: tuple[int, ...], stride: int | tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(shape[1], 6, 1, stride, bias=bias)
    image = torch.randn(shape)
    plain = layer(image)
    with pixels_first():
        inside = layer(image)
    torch.testing.assert_close(inside, plain)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 6, 3, 2, padding=1),
        nn.Conv2d(8, 8, 1, 2, groups=8),
        nn.Conv2d(8, 6, 1, 2, padding=1),
        nn.Conv2d(16, 6, 1, 2),
        nn.Conv2d(8, 6, 3, padding="same"),
    ],
)
def test_pixels_first_leaves_other_layers_alone(layer: nn.Conv2d) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, layer.in_channels, 8, 8)
    plain = layer(image)
    with pixels_first():
        assert torch.equal(layer(image), plain)
