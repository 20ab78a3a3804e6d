"""TorchScript and torch.compile, reduced precision, and what a GPU would be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pqbench.backends.torch import session as torch_session
from pqbench.backends.torch.backend import TorchBackend
from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.errors import (
    ConfigError,
    ParityError,
    UnavailableError,
    UnsupportedError,
)
from pqbench.export import torch_outputs
from pqbench.measure import recompile
from pqbench.nets.checkpoint import build_network, save_network

Feed = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def restore_torch() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_torchscript_computes_what_the_network_does_at_every_batch_size(
    torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    session = TorchBackend(2, mode="script").load(torch_artifact, [1, 4])
    assert session.compile_s is not None and session.compile_s > 0
    for count in (1, 4, 5):
        got = session.run(take(count))[0]
        np.testing.assert_allclose(got, torch_outputs(torch_artifact, take(count))[0], atol=1e-5)
    placement = session.placement()
    assert placement.precision == "f32" and placement.quantizable == 4
    assert set(placement.nodes) == {"cpu"}
    assert not placement.kernels.get("batch_norm")  # frozen: folded into the convolution
    parity = placement.details["parity"]
    assert parity["conversion"] == "eager to script" and parity["sqnr_db"] > 80
    session.close()


def test_torchscript_that_computes_something_else_is_refused(
    torch_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if tracing had kept one side of a branch: outputs of the other sign."""
    real = torch_session.script
    monkeypatch.setattr(torch_session, "script", lambda *given: lambda *x: -real(*given)(*x))
    with pytest.raises(ParityError, match="eager to script"):
        TorchBackend(1, mode="script").load(torch_artifact, [1])


class FixesItsBatch:
    """Built by ``_target_`` below."""

    def __new__(cls) -> object:
        import torch
        from torch import nn

        class Net(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.zeros(int(x.shape[0]), 3) + x.mean()

        return Net()


def test_torchscript_refuses_a_trace_that_fixed_the_batch_size(tmp_path) -> None:
    target = {"_target_": f"{__name__}.FixesItsBatch"}
    network = build_network(target)
    specs = (TensorSpec("x", (None, 3)),)
    artifact = save_network(network, target, tmp_path, specs, ("y",), ())
    with pytest.raises(UnsupportedError, match="at batch size 2 gives shape"):
        TorchBackend(1, mode="script").load(artifact, [2, 4])


def test_torch_compile_compiles_each_batch_size_when_it_loads(
    torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    backend = TorchBackend(2, mode="compile")
    if not backend.availability().available:
        pytest.skip(backend.availability().reason)
    session = backend.load(torch_artifact, [1, 4])
    before = recompile.compilations()
    for count in (1, 4, 1):
        got = session.run(take(count))[0]
        np.testing.assert_allclose(got, torch_outputs(torch_artifact, take(count))[0], atol=1e-4)
    placement = session.placement()
    assert recompile.compilations() == before  # nothing is left to the timed loop
    assert placement.precision == "f32" and placement.quantizable == 4
    assert set(placement.nodes) == {"cpu"}
    # The same graphs once more, from the cache: then the time is not one of compiling.
    again = backend.load(torch_artifact, [1, 4])
    assert again.compile_s is None
    assert "from PyTorch's cache" in again.compile_reason
    # A batch size that was not asked for compiles: the measuring floor would refuse the block.
    again.run(take(3))
    assert recompile.compilations() > before


@pytest.mark.parametrize(("precision", "shown"), [("bf16", "bf16"), ("fp16", "f16")])
@pytest.mark.parametrize("amp", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_torch_runs_products_in_the_precision_asked(
    torch_artifact: Artifact,
    take: Callable[[int], Feed],
    precision: str,
    shown: str,
    amp: bool,
    channels_last: bool,
) -> None:
    backend = TorchBackend(2, precision=precision, amp=amp, channels_last=channels_last)
    session = backend.load(torch_artifact, [4])
    assert session.placement().precision == shown
    got = session.run(take(4))[0]
    exact = torch_outputs(torch_artifact, take(4))[0]
    assert got.dtype == np.float32
    assert 0 < np.abs(got - exact).max() < 0.05


def test_torch_compile_without_a_compiler_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def none_found() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none_found)
    found = TorchBackend(1, mode="compile").availability()
    assert not found.available
    assert "no C++ compiler" in found.reason
    assert "g++" in found.hint
    assert TorchBackend(1).availability().available


def test_torchscript_in_half_precision_casts_the_whole_network(
    torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    session = TorchBackend(1, mode="script", precision="bf16", amp=False).load(torch_artifact, [2])
    assert session.placement().precision == "bf16"
    with pytest.raises(ConfigError, match="autocast"):
        TorchBackend(1, mode="script", precision="bf16")


def test_torch_on_a_gpu_fails_where_there_is_none(torch_artifact: Artifact) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    backend = TorchBackend(1, device="cuda")
    assert "driver" in backend.availability().reason
    with pytest.raises(UnavailableError, match="driver"):
        backend.load(torch_artifact, [1])
