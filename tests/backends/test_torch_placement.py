"""The placement guard on a GPU that is not there: torch's fake tensors, and recorded operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pqbench.backends.torch.backend import TorchBackend
from pqbench.backends.torch.placement import SeenOperator, check_devices
from pqbench.backends.torch.session import TorchSession
from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.backend import Placement
from pqbench.core.errors import PlacementError

# What an H100 ran for one image (torch 2.11, CUDA 13), in order.
H100 = [
    ("lift_fresh", "cpu"), ("_to_copy", "cuda"), ("convolution", "cuda"),
    ("native_batch_norm", "cuda"), ("relu_", "cuda"), ("max_pool2d_with_indices", "cuda"),
    ("convolution", "cuda"), ("native_batch_norm", "cuda"), ("relu_", "cuda"),
    ("mean", "cuda"), ("view", "cuda"), ("t", "cuda"), ("addmm", "cuda"),
]  # fmt: skip


Work = Callable[[torch.Tensor], torch.Tensor]


class Net(nn.Module):
    def __init__(self, between: Work, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, device="cuda:0", dtype=dtype)
        self.norm = nn.BatchNorm2d(8, device="cuda:0", dtype=dtype)
        self.head = nn.Linear(8, 4, device="cuda:0", dtype=dtype)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(self.between(x).mean((2, 3)))


def placement_on_a_fake_gpu(
    folder: Path, between: Work = torch.relu, precision: str = "fp32"
) -> Placement:
    """A CUDA session as it is, on tensors that have a device and a shape but no values."""
    artifact = Artifact(
        "torch", folder, "weights.safetensors", (TensorSpec("image", (None, 3, 16, 16)),), ("y",)
    )
    backend = TorchBackend(1, device="cuda", precision=precision, amp=False)
    with FakeTensorMode():
        network = Net(between, backend.dtype()).eval()
        return TorchSession(backend, artifact, network, [2], 0.0).placement()


def test_placement_takes_a_network_that_computes_on_the_gpu(tmp_path: Path) -> None:
    placement = placement_on_a_fake_gpu(tmp_path)
    assert set(placement.nodes) == {"cuda"}
    assert placement.quantizable == 2
    assert placement.precision == "f32"
    assert placement.details["elsewhere"] == {"lift_fresh on cpu": 1}


def test_placement_takes_half_precision_on_the_gpu(tmp_path: Path) -> None:
    placement = placement_on_a_fake_gpu(tmp_path, precision="fp16")
    assert set(placement.nodes) == {"cuda"}
    assert placement.precision == "f16"


@pytest.mark.parametrize("work", [torch.relu, lambda x: x + x, lambda x: torch.softmax(x, 1)])
def test_placement_refuses_what_computes_on_the_cpu(tmp_path: Path, work: Work) -> None:
    with pytest.raises(PlacementError, match=r"asked PyTorch for cuda, .* on cpu"):
        placement_on_a_fake_gpu(tmp_path, lambda x: work(x.cpu()).to("cuda:0"))


def test_check_devices_takes_what_an_h100_ran() -> None:
    seen = [SeenOperator(name, "f32", device) for name, device in H100]
    assert check_devices(seen, "cuda") == ({"cuda": 12}, {"lift_fresh on cpu": 1})


@pytest.mark.parametrize("name", ["convolution", "addmm", "relu_", "native_batch_norm"])
def test_check_devices_refuses_work_elsewhere(name: str) -> None:
    seen = [SeenOperator(n, "f32", device) for n, device in H100]
    with pytest.raises(PlacementError, match=f"{name} on cpu': 1"):
        check_devices([*seen, SeenOperator(name, "f32", "cpu")], "cuda")


def test_check_devices_refuses_to_say_where_nothing_computes() -> None:
    with pytest.raises(PlacementError, match="no operator was seen that computes"):
        check_devices([SeenOperator("view", "f32", "cuda")], "cuda")
