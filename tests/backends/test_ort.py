from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pqbench.backends.ort.backend import OrtBackend, check_placement
from pqbench.core.artifact import Artifact
from pqbench.core.backend import Backend, Session
from pqbench.core.errors import ConfigError, PlacementError, UnsupportedError
from pqbench.export import torch_outputs

Feed = dict[str, np.ndarray]


def test_ort_session_computes_what_torch_does_at_every_batch_size(
    onnx_artifact: Artifact, torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    backend = OrtBackend(2)
    assert isinstance(backend, Backend)
    session = backend.load(onnx_artifact, [1, 4])
    assert isinstance(session, Session)
    assert session.cold["load_s"] > 0
    for count in (1, 4, 7):
        got = session.run(take(count))
        assert len(got) == 1 and got[0].dtype == np.float32
        np.testing.assert_allclose(got[0], torch_outputs(torch_artifact, take(count))[0], atol=1e-5)
    session.close()


@pytest.mark.parametrize("level", ["all", "extended", "basic", "disabled"])
def test_ort_placement_counts_float_kernels_at_every_level(
    onnx_artifact: Artifact, level: str
) -> None:
    placement = OrtBackend(2, graph_optimization=level).load(onnx_artifact, [1]).placement()
    assert placement.quantizable == 4  # with 'all', convolutions are in a domain of their own
    assert placement.integer == 0 and placement.int8_share == 0.0
    assert placement.precision == "f32"
    assert placement.threads == 2
    assert set(placement.nodes) == {"CPUExecutionProvider"}
    assert sum(v for k, v in placement.float_reasons.items() if k.endswith("in float")) == 4


def test_ort_placement_counts_integer_kernels(ort_int8: Artifact) -> None:
    placement = OrtBackend(2).load(ort_int8, [1]).placement()
    assert placement.int8_share == 1.0
    assert any("QLinearConv" in kernel for kernel in placement.kernels)
    assert not any(reason.endswith("in float") for reason in placement.float_reasons)


def test_ort_placement_tells_int8_in_name_only(nncf_int8: Artifact) -> None:
    placement = OrtBackend(2, graph_optimization="basic").load(nncf_int8, [1]).placement()
    assert placement.int8_share == 0.0
    assert placement.float_reasons["DequantizeLinear at run time"] > 2
    assert placement.float_reasons["Conv in float"] == 3


def test_ort_profile_gives_positive_times_by_operator(
    ort_int8: Artifact, take: Callable[[int], Feed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    profile = OrtBackend(1).load(ort_int8, [4]).profile(take(4), 3)
    assert profile["QLinearConv"] > 0
    assert all(ms >= 0 for ms in profile.values())
    assert list(tmp_path.iterdir()) == []  # no profile is left behind


def test_ort_refuses_another_provider_instead_of_falling_back(onnx_artifact: Artifact) -> None:
    import onnxruntime

    backend = OrtBackend(1)
    backend.provider = "CUDAExecutionProvider"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no CUDA provider to fall back from")
    plain = onnxruntime.InferenceSession(
        str(onnx_artifact.path), providers=["CUDAExecutionProvider"]
    )
    if "CUDAExecutionProvider" in plain.get_providers():
        pytest.skip("CUDA works here, so there is no fallback to catch")
    assert plain.get_providers() == ["CPUExecutionProvider"]  # what is silently done otherwise
    with pytest.raises(PlacementError, match="CUDAExecutionProvider"):
        backend.load(onnx_artifact, [1])


def fake_session(providers: list[str], nodes: dict[str, int]) -> SimpleNamespace:
    groups = [
        SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count)
        for name, count in nodes.items()
    ]
    return SimpleNamespace(
        get_providers=lambda: providers, get_provider_graph_assignment_info=lambda: groups
    )


@pytest.mark.parametrize(
    ("providers", "nodes"),
    [
        (["CPUExecutionProvider"], {"CPUExecutionProvider": 5}),
        (["A", "CPUExecutionProvider"], {"CPUExecutionProvider": 5}),
        (["A", "CPUExecutionProvider"], {"A": 4, "CPUExecutionProvider": 1}),
        (["A", "CPUExecutionProvider"], {}),
    ],
)
def test_check_placement_refuses_any_node_elsewhere(
    providers: list[str], nodes: dict[str, int]
) -> None:
    with pytest.raises(PlacementError, match="asked for A"):
        check_placement(fake_session(providers, nodes), "A")  # type: ignore[arg-type]


def test_check_placement_gives_nodes_by_provider() -> None:
    session = fake_session(["A", "CPUExecutionProvider"], {"A": 7})
    assert check_placement(session, "A") == {"A": 7}  # type: ignore[arg-type]


def test_ort_names_the_reason_for_a_model_it_refuses(
    onnx_artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_artifact.path.read_bytes()[:300])
    with pytest.raises(UnsupportedError, match=r"refuses model\.onnx"):
        OrtBackend(1).load(replace(onnx_artifact, folder=tmp_path), [1])


def test_ort_is_silent(
    onnx_artifact: Artifact, take: Callable[[int], Feed], capfd: pytest.CaptureFixture[str]
) -> None:
    session = OrtBackend(2).load(onnx_artifact, [1])
    session.run(take(1))
    session.placement()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"threads": True},
        {"threads": 1, "provider": "gpu"},
        {"threads": 1, "graph_optimization": "99"},
    ],
)
def test_ort_refuses_options_that_cannot_be_meant(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        OrtBackend(**options)  # type: ignore[arg-type]
