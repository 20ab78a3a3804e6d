from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import ParityError, UnsupportedError
from pqbench.core.parity import QDQ_SQNR_DB, check, compare
from pqbench.export import convert, export_onnx, onnx_outputs, openvino_outputs, torch_outputs
from pqbench.export.convert import AGREEMENT
from pqbench.nets.checkpoint import build_network, save_network


def two_heads() -> object:
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(20, 8)
            self.head = nn.Linear(8, 4)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
            pooled = (self.embedding(ids) * mask.unsqueeze(-1)).sum(1)
            return {"logits": self.head(pooled), "pooled": pooled}

    return Network()


def fixed_batch() -> object:
    import torch
    from torch import nn

    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] == 2:
                return x.flatten(1)[:, :3]
            return -x.flatten(1)[:, :3]

    return Network()


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)]
)
def test_convert_keeps_what_real_models_compute(
    name: str,
    make_artifact: Callable[[str], Artifact],
    images: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    source = make_artifact(name)
    onnx = convert(source, "onnx", images, tmp_path / "onnx")
    openvino = convert(onnx, "openvino", images, tmp_path / "openvino")
    assert [e.action for e in openvino.lineage] == ["source", "export", "convert"]
    for entry in openvino.lineage[1:]:
        parity = entry.details["parity"]
        assert parity["passed"] and parity["samples"] == 8
        assert parity["sqnr_db"] > 80.0
        assert parity["tolerance"]["max_clear_flips"] == 0  # float arithmetic: none of 8
    assert Artifact.load(tmp_path / "openvino") == openvino
    assert np.abs(torch_outputs(source, images)[0]).max() > 1e-3  # nothing was compared with noise


def test_export_is_quantizable_portable_and_has_a_free_batch(
    tiny_onnx: Artifact, tmp_path: Path
) -> None:
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    model = onnx.load(tiny_onnx.path)
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}
    assert not any(n.metadata_props or n.doc_string for n in model.graph.node)
    assert str(Path.cwd()).encode() not in tiny_onnx.path.read_bytes()
    assert tiny_onnx.model_files() == [tiny_onnx.path]
    quantize_dynamic(tiny_onnx.path, tmp_path / "dynamic.onnx")  # stale shapes would stop it
    rng = np.random.default_rng(1)
    for count in (1, 3):
        batch = {"image": rng.standard_normal((count, 3, 64, 64)).astype(np.float32)}
        assert onnx_outputs(tiny_onnx, batch)[0].shape == (count, 10)


def test_export_gives_equal_files_and_no_chatter_for_equal_models(
    tiny: Artifact,
    tiny_onnx: Artifact,
    images: dict[str, np.ndarray],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    one = {"image": images["image"][:1]}  # a single sample must do as an example
    again = export_onnx(tiny, tmp_path, one)
    assert again.content_hash() == tiny_onnx.content_hash()
    assert capfd.readouterr().out == ""


def test_export_handles_token_inputs_and_several_outputs(tmp_path: Path) -> None:
    builder = {"_target_": f"{__name__}.two_heads"}
    inputs = (TensorSpec("ids", (None, 6), "int64"), TensorSpec("mask", (None, 6), "int64"))
    source = save_network(
        build_network(builder),
        builder,
        tmp_path / "torch",
        inputs,
        ("logits", "pooled"),
        (LineageEntry("source", 0.0),),
    )
    rng = np.random.default_rng(0)
    batch = {
        "mask": rng.integers(0, 2, (5, 6)),  # another order than the model's: names decide
        "ids": rng.integers(0, 20, (5, 6)),
    }
    openvino = convert(source, "openvino", batch, tmp_path / "openvino")
    assert [e.action for e in openvino.lineage] == ["source", "export", "convert"]
    assert [o.shape for o in openvino_outputs(openvino, batch)] == [(5, 4), (5, 8)]


def test_export_refuses_a_network_that_fixes_its_batch(tmp_path: Path) -> None:
    builder = {"_target_": f"{__name__}.fixed_batch"}
    source = save_network(
        build_network(builder),
        builder,
        tmp_path / "torch",
        (TensorSpec("x", (None, 2, 2)),),
        ("y",),
        (),
    )
    batch = {"x": np.ones((4, 2, 2), np.float32)}
    with pytest.raises(UnsupportedError, match="batch"):
        convert(source, "onnx", batch, tmp_path / "onnx")


def test_convert_catches_a_perturbed_weight(
    tiny: Artifact,
    images: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnx
    from onnx import numpy_helper

    def export_wrongly(*args: object) -> Artifact:
        new = export_onnx(*args)  # type: ignore[arg-type]
        model = onnx.load(new.path)
        weight = next(w for w in model.graph.initializer if len(w.dims) == 4)
        array = numpy_helper.to_array(weight).copy()
        array[0] += 0.1
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        onnx.save(model, new.path)
        return new

    # the package exports a function under its module's name: reach the module through it
    monkeypatch.setitem(convert.__globals__, "export_onnx", export_wrongly)
    with pytest.raises(ParityError, match="torch to onnx"):
        convert(tiny, "onnx", images, tmp_path)


def test_convert_holds_quantized_models_to_a_wider_tolerance(
    tiny_onnx: Artifact, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [images]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    folder = tmp_path / "int8"
    folder.mkdir()
    quantize_static(
        tiny_onnx.path,
        folder / "model.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    quantized = replace(tiny_onnx, folder=folder)
    result = convert(quantized, "openvino", images, tmp_path / "openvino")
    parity = result.lineage[-1].details["parity"]
    assert parity["tolerance"]["min_sqnr_db"] == QDQ_SQNR_DB
    assert parity["sqnr_db"] > QDQ_SQNR_DB
    assert parity["tolerance"]["min_varying_sqnr_db"] is None
    assert parity["tolerance"]["max_clear_flips"] > 0
    size = sum(p.stat().st_size for p in result.folder.glob("*.bin"))
    floats = convert(tiny_onnx, "openvino", images, tmp_path / "float")
    assert size < sum(p.stat().st_size for p in floats.folder.glob("*.bin"))
    with pytest.raises(ParityError):  # more than equal outputs can have
        convert(quantized, "openvino", images, tmp_path / "strict", min_sqnr_db=201.0)


def test_convert_refuses_what_openvino_cannot_read(tiny_onnx: Artifact, tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(tiny_onnx.path.read_bytes()[:500])
    with pytest.raises(UnsupportedError, match="OpenVINO cannot read"):
        convert(replace(tiny_onnx, folder=tmp_path), "openvino", {}, tmp_path / "openvino")


def test_convert_compares_as_many_samples_as_memory_holds(
    tiny: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny.inputs[0]
    shape = [20, *(d or 1 for d in spec.shape[1:])]
    batch = {spec.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    one = sum(value.nbytes for value in torch_outputs(tiny, {k: v[:1] for k, v in batch.items()}))
    for budget, samples in ((1000 * one, 20), (5 * one, 5), (one // 2, 2)):
        monkeypatch.setattr(sys.modules["pqbench.export.convert"], "OUTPUT_BYTES", budget)
        new = convert(tiny, "onnx", batch, tmp_path / str(samples))
        assert new.lineage[-1].details["parity"]["samples"] == samples


def test_convert_names_conversions_that_do_not_exist(tiny_onnx: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="from onnx to torch"):
        convert(tiny_onnx, "torch", {}, tmp_path)
    assert convert(tiny_onnx, "onnx", {}, tmp_path) is tiny_onnx


def test_qdq_tolerance_still_catches_one_wrong_weight_tensor() -> None:
    """Half of a layer's outputs with the wrong sign: far below what rounding explains."""
    rng = np.random.default_rng(0)
    right = rng.normal(size=(32, 10)).astype(np.float32)
    wrong = right.copy()
    wrong[:, :5] *= -1
    with pytest.raises(ParityError):
        check(compare("onnx to openvino", [right], [wrong], QDQ_SQNR_DB, AGREEMENT))
    noisy = right + 0.2 * rng.normal(size=right.shape).astype(np.float32)
    assert compare("onnx to openvino", [right], [noisy], QDQ_SQNR_DB, 0.5).sqnr_db > QDQ_SQNR_DB


def test_export_names_a_branch_on_the_data(tmp_path: Path) -> None:
    builder = {"_target_": "user_networks.Branching"}
    inputs = (TensorSpec("input", (None, 3, 8, 8)),)
    source = save_network(build_network(builder), builder, tmp_path, inputs, ("logits",), ())
    batch = {"input": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    with pytest.raises(
        UnsupportedError, match=r"branches on its data at user_networks\.py:\d+ \(if x\.sum\(\) > 0"
    ):
        convert(source, "onnx", batch, tmp_path / "onnx")
