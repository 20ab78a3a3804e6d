"""An eager PyTorch network's time is split among its modules, and nothing is left over."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pqbench.backends.ort.backend import OrtBackend
from pqbench.backends.torch.backend import TorchBackend
from pqbench.backends.torch.kernels import module_times
from pqbench.core.artifact import Artifact
from pqbench.core.errors import UnsupportedError
from pqbench.experiment.layer_turns import check_names
from pqbench.report.layers import layer_table

Feed = dict[str, np.ndarray]
SLEEP_S = 0.004


class Slow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(SLEEP_S)
        return x


class Block(nn.Module):
    """Works between the modules that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        time.sleep(SLEEP_S)
        return x + y


def test_module_times_credit_a_slow_layer_and_a_slow_block_with_their_own_time() -> None:
    network = nn.Sequential(nn.Linear(4, 4), Slow(), Block()).eval()
    found = module_times(network, lambda: network(torch.ones(1, 4)), runs=3)
    ms = {kernel.name: kernel.ms for kernel in found.kernels}
    assert set(ms) == {"Sequential", "0", "1", "2", "2.inner.0", "2.inner.1"}
    assert ms["1"] >= 1e3 * SLEEP_S and ms["2"] >= 1e3 * SLEEP_S
    assert sum(ms.values()) - ms["1"] - ms["2"] < 1e3 * SLEEP_S
    assert sum(ms.values()) <= found.call_ms < sum(ms.values()) + 1
    weights = {operator.name: operator.weights for operator in found.operators}
    assert weights["2.inner.0"] == "2.inner.0.weight" and weights["1"] == ""
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_module_times_add_the_calls_of_a_module_that_is_called_twice() -> None:
    slow = Slow()
    network = nn.Sequential(slow, slow)
    found = module_times(network, lambda: network(torch.ones(1)), runs=2)
    assert {k.name: k.ms for k in found.kernels}["0"] >= 2e3 * SLEEP_S


def test_module_times_leave_no_hook_behind_an_error() -> None:
    network = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        module_times(network, lambda: network(torch.ones(1, 5)), runs=1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_kernels_of_a_torch_session_make_a_table(
    torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    session = TorchBackend(1).load(torch_artifact, [1])
    looks = [look for look in (session.kernels(take(1), 5) for _ in range(3)) if look]
    assert len(looks) == 3
    check_names(["a", "b"], [looks[0], looks[0]])
    table = layer_table(["a", "b"], [looks, looks], [[1.0, 1.1, 1.2]] * 2)
    assert sum(layer.ms[0].value for layer in table.layers) == pytest.approx(
        sum(look.call_ms for look in looks) / 3
    )
    assert sum("Conv2d" in layer.kinds[0] for layer in table.layers) == 3


def test_kernels_of_a_scripted_network_are_not_told(
    torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    assert TorchBackend(1, mode="script").load(torch_artifact, [1]).kernels(take(1), 2) is None


def test_check_names_refuses_modules_beside_an_onnx_files_operators(
    torch_artifact: Artifact, onnx_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    looks = [
        TorchBackend(1).load(torch_artifact, [1]).kernels(take(1), 2),
        OrtBackend(1).load(onnx_artifact, [1]).kernels(take(1), 2),
    ]
    profiles = [look for look in looks if look is not None]
    with pytest.raises(UnsupportedError, match="names none of the layers of eager"):
        check_names(["eager", "onnx"], profiles)
