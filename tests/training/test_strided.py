"""Gradients of strided pointwise convolutions, whose kernel for few channels is defective."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pqbench.compress.criteria import gather_gradients
from pqbench.core.split import PreparedSplit
from pqbench.nets import strided
from pqbench.nets.strided import pixels_first
from pqbench.training.fit import fit
from pqbench.training.settings import TrainingSettings

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


@pytest.mark.parametrize("caller", ["fit", "gather_gradients"])
def test_whoever_asks_for_gradients_is_guarded(
    caller: str, split: PreparedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    strides = []
    convolve = strided._convolve

    def seen(*args: object, **named: object) -> torch.Tensor:
        strides.append(args[3])
        return convolve(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(strided, "_convolve", seen)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    if caller == "fit":
        fit(network, split, TrainingSettings(epochs=1, batch_size=16, train_size=32, max_steps=1))
    else:
        gather_gradients(network, split, ["input"], np.arange(1), "taylor")
    assert strides == [(2, 2)]
