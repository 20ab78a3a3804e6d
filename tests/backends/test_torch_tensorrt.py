"""Torch-TensorRT, on a double that has the parameters and members of the real one's source."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_tensorrt_api
from torch_tensorrt_doubles import API, VERSIONS, FakeTorchTensorrt

from pqbench.backends.torch.backend import TorchBackend
from pqbench.backends.torch_tensorrt import api, backend, session
from pqbench.backends.torch_tensorrt.backend import TorchTensorrtBackend
from pqbench.core.artifact import Artifact
from pqbench.core.backend import Session
from pqbench.core.errors import ConfigError, PlacementError, UnavailableError, UnsupportedError
from pqbench.export import torch_outputs

Feed = dict[str, np.ndarray]
Load = Callable[..., Session]
WHEEL = os.environ.get("PQBENCH_TEST_TORCH_TENSORRT", "")


@pytest.fixture(autouse=True)
def restore_torch() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def load(torch_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load the small network on the host, by a double."""
    import torch

    def do(fake: FakeTorchTensorrt, **options: Any) -> Session:
        made = TorchTensorrtBackend(1, engine_cache=str(tmp_path / "engines"), **options)
        monkeypatch.setattr(made, "device", "cpu")
        monkeypatch.setattr(made, "_library", lambda: torch)
        monkeypatch.setattr(backend, "check_installed", lambda: None)
        monkeypatch.setattr(session, "load_library", lambda: fake)
        return made.load(torch_artifact, [1, 4])

    return do


@pytest.mark.parametrize("version", VERSIONS)
def test_each_batch_size_has_engines_and_every_batch_is_computed(
    version: str, load: Load, torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    fake = FakeTorchTensorrt(version)
    running = load(fake)
    for count in (1, 4, 3, 9):  # 3 is filled up to 4; 9 is cut into 4 + 4 + 1
        [got] = running.run(take(count))
        assert len(got) == count
        np.testing.assert_allclose(got, torch_outputs(torch_artifact, take(count))[0], atol=1e-5)
    placement = running.placement()
    assert set(placement.nodes) == {"TensorRT"}
    assert placement.nodes["TensorRT"] >= 6
    assert (placement.precision, placement.quantizable, placement.integer) == ("f32", 4, 0)
    assert placement.kernels["TensorRT CaskConvolution"] == 3
    assert placement.details["engines"] == {1: 1, 4: 1}
    assert placement.details["engine_bytes"] == 2 * len(b"an engine")
    assert placement.details["torch_tensorrt"] == version
    assert placement.details["parity"]["sqnr_db"] > 80
    assert running.compile_s is not None and running.compile_s > 0
    assert len(fake.compiled) == 2
    assert fake.compiled[0]["disable_tf32"] is True  # else "float32" has 10 bits of mantissa
    json.dumps(placement.details)
    running.close()


def test_what_stays_in_pytorch_is_counted_and_named(
    load: Load, torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    running = load(FakeTorchTensorrt(lacks=("convolution",)), min_block_size=1)
    [got] = running.run(take(3))
    np.testing.assert_allclose(got, torch_outputs(torch_artifact, take(3))[0], atol=1e-5)
    placement = running.placement()
    assert placement.nodes["PyTorch"] == placement.kernels["PyTorch convolution"] == 3
    assert placement.float_reasons["convolution in PyTorch, f32"] == 3
    assert placement.quantizable == 4  # three there, and the product in an engine
    assert placement.details["engines"][1] == 3


def test_a_network_of_which_tensorrt_takes_nothing_is_refused(load: Load) -> None:
    with pytest.raises(PlacementError, match=r"made none.*'convolution': 3") as caught:
        load(FakeTorchTensorrt(lacks=None))
    assert "torch_cuda" in caught.value.hint
    with pytest.raises(PlacementError, match="made none"):  # too few for an engine
        load(FakeTorchTensorrt(), min_block_size=50)


def test_others_none_refuses_a_part_in_pytorch(load: Load) -> None:
    with pytest.raises(UnsupportedError, match="model is not fully supported") as caught:
        load(FakeTorchTensorrt(lacks=("convolution",)), others="none")
    assert "backend.others=torch" in caught.value.hint
    assert load(FakeTorchTensorrt(), others="none").placement().nodes.keys() == {"TensorRT"}


def test_others_none_does_not_trust_the_compiler(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it took its own setting for a wish."""
    real = FakeTorchTensorrt.compile

    def lenient(fake: Any, *args: Any, **options: Any) -> Any:
        return real(fake, *args, **{**options, "require_full_compilation": False})

    monkeypatch.setattr(FakeTorchTensorrt, "compile", lenient)
    with pytest.raises(PlacementError, match=r"PyTorch would run .*'convolution': 3"):
        load(FakeTorchTensorrt(lacks=("convolution",)), others="none")


def test_half_precision_is_the_network_itself_or_the_compilers_autocast(load: Load) -> None:
    import torch

    fake = FakeTorchTensorrt()
    whole = load(fake, precision="fp16").placement()
    assert (whole.precision, whole.details["amp"]) == ("f16", False)
    assert whole.float_reasons == {"half in TensorRT": 4}
    assert "enable_autocast" not in fake.compiled[0]
    fake = FakeTorchTensorrt(kind="BF16")
    cast = load(fake, precision="bf16", amp=True).placement()
    assert (cast.precision, cast.details["amp"]) == ("bf16", True)
    assert fake.compiled[0]["autocast_low_precision_type"] is torch.bfloat16


@pytest.mark.parametrize(
    ("asked", "kind"), [("fp32", "Half"), ("fp16", "Float"), ("bf16", "Float")]
)
def test_engines_at_another_precision_than_asked_are_refused(
    asked: str, kind: str, load: Load
) -> None:
    with pytest.raises(PlacementError, match="its products take"):
        load(FakeTorchTensorrt(kind=kind), precision=asked)


class Never:
    """An attribute that stays false, whatever it is set to."""

    def __get__(self, instance: object, owner: type) -> bool:
        return False

    def __set__(self, instance: object, value: bool) -> None:
        pass


def test_engines_that_tell_no_types_are_counted_all_the_same(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a compiler would leave them whose ``Debugger`` no longer asks for details."""
    monkeypatch.setattr(FakeTorchTensorrt, "detailed", Never(), raising=False)
    placement = load(FakeTorchTensorrt()).placement()
    assert placement.nodes["TensorRT"] >= 6
    assert placement.quantizable == 0 and placement.int8_share is None


def test_compiling_leaves_the_logging_of_the_process_alone(load: Load) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    load(FakeTorchTensorrt())
    assert (root.handlers[:], root.level) == before


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options", [{}, {"precision": "fp16", "amp": True}])
def test_settings_are_parameters_of_the_real_compiler(version: str, options: Any) -> None:
    made = TorchTensorrtBackend(1, **options).options()
    assert set(made) <= set(API[version]["parameters"]["dynamo.compile"])
    assert ("enable_autocast" in made) == bool(options)


@pytest.mark.skipif(
    not WHEEL and importlib.util.find_spec("torch_tensorrt") is None,
    reason="Torch-TensorRT is not here; PQBENCH_TEST_TORCH_TENSORRT names an unpacked wheel",
)
def test_names_of_the_double_are_those_of_the_wheels_source() -> None:
    found = importlib.util.find_spec("torch_tensorrt")
    folder = Path(WHEEL) if WHEEL or found is None else Path(str(found.origin)).parents[1]
    real = torch_tensorrt_api.read(folder)
    if real["version"] not in API:
        pytest.skip(f"no list of names for {real['version']}")
    assert real == API[real["version"]]


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    """A distribution's metadata, as an installer leaves it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {text}" for text in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_availability_names_the_pytorch_that_it_was_built_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if importlib.util.find_spec("torch_tensorrt") is not None:
        pytest.skip("a real one is installed")
    with pytest.raises(UnavailableError, match="torch_tensorrt is not installed") as caught:
        api.check_installed()
    assert "environment of its own" in caught.value.hint
    install(
        tmp_path, "torch-tensorrt", "9.9.0", "torch<0.2,>=0.1", "tensorrt-cu99-libs>=1", "numpy<1",
        'executorch<0.1; extra == "executorch"',
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    found = TorchTensorrtBackend(1).availability()
    assert not found.available and found.versions["torch-tensorrt"] == "9.9.0"
    version = torch.__version__.partition("+")[0]
    assert f"torch-tensorrt 9.9.0 needs torch<0.2,>=0.1 ({version}" in found.reason
    assert "tensorrt-cu99-libs>=1 (not installed)" in found.reason
    assert "numpy" not in found.reason and "executorch" not in found.reason
    assert "pqbench[torch_tensorrt]" in found.hint


def test_an_installation_that_fits_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "torch-tensorrt-rtx", "9.9.0", "torch>=2", "tensorrt-rtx-cu99==1.*")
    install(tmp_path, "tensorrt-rtx-cu99", "1.7")
    monkeypatch.syspath_prepend(tmp_path)
    api.check_installed()


def test_a_failed_import_is_a_reason_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch_tensorrt.py").write_text(
        "print('import error')\nraise Exception('libnvinfer.so.11: cannot open')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_tensorrt", raising=False)
    with pytest.raises(UnavailableError, match=r"cannot be imported: libnvinfer\.so\.11"):
        api.load_library()
    assert capsys.readouterr().out == ""


def test_int8_is_refused_in_one_line_with_what_to_use_instead(torch_artifact: Artifact) -> None:
    asked = TorchTensorrtBackend(1, precision="int8")
    found = asked.availability()
    assert not found.available and "ModelOpt" in found.reason and "\n" not in found.reason
    assert "ort_int8_trt" in found.hint
    with pytest.raises(UnsupportedError, match="ModelOpt"):
        asked.load(torch_artifact, [1])


@pytest.mark.parametrize(
    "options",
    [{"precision": "int4"}, {"others": "cpu"}, {"min_block_size": 0}, {"optimization_level": 6}],
)
def test_settings_that_cannot_be_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError, match="is not possible"):
        TorchTensorrtBackend(1, **options)


def test_dynamic_int8_of_pytorch_is_refused_off_the_cpu(torch_artifact: Artifact) -> None:
    from dataclasses import replace

    from pqbench.core.artifact import LineageEntry

    quantized = replace(torch_artifact, lineage=(LineageEntry("torch_dynamic", 0.0),))
    for made in (TorchBackend(1, device="cuda"), TorchBackend(1, precision="bf16", amp=False)):
        with pytest.raises(UnsupportedError, match="float32 on the CPU alone"):
            made.load(quantized, [1])
    TorchBackend(1).load(quantized, [1])
