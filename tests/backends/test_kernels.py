"""Kernels of real runtimes are traced back to the layers of the file they loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pqbench.backends.openvino.backend import OpenvinoBackend
from pqbench.backends.ort.backend import OrtBackend
from pqbench.core.artifact import Artifact
from pqbench.core.backend import KernelProfile
from pqbench.export import convert_openvino
from pqbench.report.layer_assignment import assign, is_product
from pqbench.report.layers import layer_table

Feed = dict[str, np.ndarray]
LAYERS = 4  # three convolutions and a Linear layer


@pytest.fixture(scope="module")
def profiles(
    onnx_artifact: Artifact,
    ort_int8: Artifact,
    nncf_int8: Artifact,
    images: Feed,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[KernelProfile]]:
    """Of five sessions, three looks each."""
    folder = tmp_path_factory.mktemp("kernels")
    feed = {name: np.ascontiguousarray(array[:2]) for name, array in images.items()}
    sessions = {
        "float ort": OrtBackend(1).load(onnx_artifact, [2]),
        "int8 ort": OrtBackend(1).load(ort_int8, [2]),
        "nncf ort": OrtBackend(1).load(nncf_int8, [2]),
        "float openvino": OpenvinoBackend(1).load(
            convert_openvino(onnx_artifact, folder / "float"), [2]
        ),
        "int8 openvino": OpenvinoBackend(1).load(convert_openvino(ort_int8, folder / "int8"), [2]),
    }
    found = {
        name: [session.kernels(feed, 5) for _ in range(3)] for name, session in sessions.items()
    }
    return {name: [look for look in looks if look is not None] for name, looks in found.items()}


def products(profile: KernelProfile) -> list[str]:
    """The convolutions and matrix products that kernels compute, one name for each kernel."""
    kinds = {o.name: o.type for o in profile.operators}
    assigned = assign(profile.operators, profile.kernels)
    return [n for one in assigned for n in one.layers if is_product(kinds[n])]


@pytest.mark.parametrize("name", ["float ort", "int8 ort", "nncf ort", "float openvino"])
def test_kernels_compute_each_layer_once(
    name: str, profiles: dict[str, list[KernelProfile]]
) -> None:
    for look in profiles[name]:
        assert len(products(look)) == len(set(products(look))) == LAYERS
        assert 0 < sum(kernel.ms for kernel in look.kernels) <= look.call_ms
        own = {n for one in assign(look.operators, look.kernels) for n in one.layers}
        assert own == {operator.name for operator in look.operators}


@pytest.mark.parametrize(
    "pair",
    [
        ("float ort", "int8 ort"),
        ("float ort", "nncf ort"),
        ("float openvino", "int8 openvino"),
        ("float ort", "float openvino"),
        ("float ort", "int8 ort", "float openvino", "int8 openvino"),
    ],
)
def test_layers_of_real_sessions_meet(
    pair: tuple[str, ...], profiles: dict[str, list[KernelProfile]]
) -> None:
    rounds = [profiles[name] for name in pair]
    table = layer_table(pair, rounds, [[look.call_ms for look in looks] for looks in rounds])
    *layers, _ = table.layers
    heavy = [x for x in layers if any("Conv" in k or "Gemm" in k or "Full" in k for k in x.kinds)]
    assert len(heavy) == LAYERS
    assert all(all(layer.kinds) for layer in layers), [layer.kinds for layer in layers]


def test_quantized_kernels_pay_for_conversions(profiles: dict[str, list[KernelProfile]]) -> None:
    assert not [k for k in profiles["float openvino"][0].kernels if "Quantize" in k.kind]
    quantizers = [k for k in profiles["int8 ort"][0].kernels if k.kind == "QuantizeLinear"]
    assert quantizers and all(kernel.conversion for kernel in quantizers)


def test_kernels_leave_no_profile_behind(
    onnx_artifact: Artifact, take: Callable[[int], Feed], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert OrtBackend(1).load(onnx_artifact, [1]).kernels(take(1), 2) is not None
    assert list(tmp_path.iterdir()) == []
