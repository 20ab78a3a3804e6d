from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pqbench.core.artifact import Artifact, Representation, TensorSpec
from pqbench.core.errors import ParityError, UnavailableError, UnsupportedError
from pqbench.export import convert, convert_mnn, convert_ncnn, ncnn_convert

Images = dict[str, np.ndarray]


@pytest.fixture(params=["ncnn", "mnn"])
def to(request: pytest.FixtureRequest) -> Representation:
    for name in {"ncnn": ("ncnn", "pnnx"), "mnn": ("MNN",)}[request.param]:
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'pqbench[edge]'")
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def qdq(tiny_onnx: Artifact, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [images]

        def get_next(self) -> Images | None:
            return self.left.pop() if self.left else None

    folder = tmp_path_factory.mktemp("qdq")
    quantize_static(
        tiny_onnx.path, folder / "model.onnx", Reader(), quant_format=QuantFormat.QDQ,
        per_channel=True,
    )  # fmt: skip
    return replace(tiny_onnx, folder=folder)


def test_convert_from_torch_keeps_float32(
    tiny: Artifact, images: Images, to: Representation, tmp_path: Path
) -> None:
    made = convert(tiny, to, images, tmp_path / to)
    assert [e.action for e in made.lineage] == ["source", "export", "convert"]
    parity = made.lineage[-1].details["parity"]
    assert parity["passed"] and parity["sqnr_db"] > 90.0
    assert Artifact.load(tmp_path / to) == made
    parameters = 4 * (3 * 16 * 9 + 16 * 9 + 16 * 32 + 32 * 10)
    assert sum(p.stat().st_size for p in made.model_files()) > parameters  # not in half precision


def test_convert_refuses_qdq_with_the_cause(
    qdq: Artifact,
    images: Images,
    to: Representation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    cause = {"ncnn": r"ncnn has no layer for .*QuantizeLinear", "mnn": "is ended by SIGABRT"}[to]
    with pytest.raises(UnsupportedError, match=cause) as caught:
        convert(qdq, to, images, tmp_path / to)
    assert "backend=ort" in caught.value.hint
    assert not list(here.iterdir())  # a tool that dies leaves what it has begun


def test_convert_refuses_a_file_that_is_cut_off(
    tiny_onnx: Artifact, images: Images, to: Representation, tmp_path: Path
) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(tiny_onnx.path.read_bytes()[:500])
    with pytest.raises(UnsupportedError):
        convert(replace(tiny_onnx, folder=tmp_path), to, images, tmp_path / to)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TensorSpec("ids", (None, 6), "int64"), "'ids' is int64"),
        (TensorSpec("image", (None, 3, None, None)), "wants fixed sizes"),
    ],
)
def test_convert_refuses_inputs_that_pqbench_does_not_feed(
    tiny_onnx: Artifact, spec: TensorSpec, message: str, tmp_path: Path
) -> None:
    for make in (convert_ncnn, convert_mnn):
        with pytest.raises(UnsupportedError, match=message):
            make(replace(tiny_onnx, inputs=(spec,)), tmp_path)


def test_convert_catches_weights_in_half_precision(
    tiny: Artifact, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pnnx stores float16 unless it is told otherwise; the parity asked of float32 sees it."""
    pytest.importorskip("ncnn"), pytest.importorskip("pnnx")
    real = ncnn_convert.subprocess.run

    def run(command: list[str], **options: object) -> object:
        given = ["fp16=1" if word == "fp16=0" else word for word in command]
        return real(given, **options)

    onnx = convert(tiny, "onnx", images, tmp_path / "onnx")
    monkeypatch.setattr(ncnn_convert.subprocess, "run", run)
    with pytest.raises(ParityError, match="SQNR"):
        convert(onnx, "ncnn", images, tmp_path / "ncnn", min_sqnr_db=90.0)


def test_converters_say_what_to_install(
    tiny_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for make, hint in (
        (convert_ncnn, "pip install ncnn pnnx"),
        (convert_mnn, "pip install MNN"),
    ):
        with pytest.raises(UnavailableError, match="is not installed") as caught:
            make(tiny_onnx, tmp_path)
        assert caught.value.hint == hint
