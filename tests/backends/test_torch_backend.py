from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from pqbench.backends.torch.backend import TorchBackend
from pqbench.core.artifact import Artifact
from pqbench.core.backend import Backend, Session
from pqbench.core.errors import ConfigError, PlacementError
from pqbench.export import torch_outputs

Feed = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def restore_torch() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("channels_last", [False, True])
def test_torch_session_computes_what_the_network_does(
    torch_artifact: Artifact, take: Callable[[int], Feed], channels_last: bool
) -> None:
    backend = TorchBackend(2, channels_last=channels_last)
    assert isinstance(backend, Backend)
    session = backend.load(torch_artifact, [1, 4])
    assert isinstance(session, Session)
    assert session.cold["load_s"] > 0
    for count in (1, 5):
        got = session.run(take(count))
        assert len(got) == 1 and got[0].flags.c_contiguous
        np.testing.assert_allclose(got[0], torch_outputs(torch_artifact, take(count))[0], atol=1e-5)
    session.close()


def test_torch_placement_watches_precision_device_and_threads(torch_artifact: Artifact) -> None:
    placement = TorchBackend(2).load(torch_artifact, [1]).placement()
    assert placement.precision == "f32"
    assert placement.quantizable == 4 and placement.int8_share == 0.0
    assert set(placement.nodes) == {"cpu"}
    assert placement.threads == 2
    assert placement.kernels["convolution"] == 3


def test_torch_bf16_runs_products_in_bf16_and_returns_float32(
    torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    session = TorchBackend(2, precision="bf16").load(torch_artifact, [4])
    assert session.placement().precision == "bf16"
    got = session.run(take(4))[0]
    exact = torch_outputs(torch_artifact, take(4))[0]
    assert got.dtype == np.float32
    assert 0 < np.abs(got - exact).max() < 0.05


def test_torch_placement_fails_if_another_precision_runs(torch_artifact: Artifact) -> None:
    backend = TorchBackend(1)
    session = backend.load(torch_artifact, [1])
    backend.precision = "bf16"
    run_in_float = TorchBackend(1).load(torch_artifact, [1])._forward
    session._forward = run_in_float  # type: ignore[method-assign]
    with pytest.raises(PlacementError, match="asked PyTorch for bf16"):
        session.placement()


def test_torch_load_fails_if_threads_are_not_taken(
    torch_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    with pytest.raises(PlacementError, match="asked PyTorch for 7 threads"):
        TorchBackend(7).load(torch_artifact, [1])


def test_torch_takes_read_only_inputs(torch_artifact: Artifact, images: Feed) -> None:
    frozen = images["image"][:2].copy()
    frozen.flags.writeable = False
    session = TorchBackend(1).load(torch_artifact, [2])
    assert session.run({"image": frozen})[0].shape == (2, 10)


def test_torch_profile_gives_positive_times_by_operator(
    torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    profile = TorchBackend(1).load(torch_artifact, [2]).profile(take(2), 3)
    assert sum(profile.values()) > 0
    assert any("conv" in name for name in profile)


@pytest.mark.parametrize(
    "options", [{"precision": "int8"}, {"mode": "fast"}, {"threads": -1}, {"threads": "2"}]
)
def test_torch_refuses_options_that_cannot_be_meant(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        TorchBackend(**options)  # type: ignore[arg-type]


def test_flatten_outputs_keeps_order() -> None:
    from pqbench.nets.layers import flatten_outputs

    a, b, c = SimpleNamespace(), SimpleNamespace(), SimpleNamespace()
    assert flatten_outputs({"x": [a, (b, None)], "y": c}) == [a, b, c]
