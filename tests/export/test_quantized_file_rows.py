"""A user's quantized ONNX file on a runtime that cannot read it: a row with its cause, no crash."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_sweep as tiny
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from pqbench.report.load import load_records

BACKENDS = ("mnn", "ncnn")


class Images(CalibrationDataReader):
    """A few images of noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [{"x": rng.standard_normal((1, 3, 32, 32), np.float32)} for _ in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def write_qdq(path: Path) -> None:
    """A convolution and a product between quantizers, as ONNX Runtime's tool makes them."""
    rng = np.random.default_rng(0)
    weights = {"w": (8, 3, 3, 3), "m": (8, 2)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("MatMul", ["f", "m"], ["scores"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    source = path.with_name("float.onnx")
    onnx.save(model, source)
    quantize_static(source, path, Images(), quant_format=QuantFormat.QDQ, per_channel=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_quantized_file_is_a_row_with_its_cause(backend: str, tmp_path: Path) -> None:
    """MNN's converter dies on such files, or makes of them what it cannot open: Q/DQ is named."""
    for module in {"mnn": ["MNN"], "ncnn": ["ncnn", "pnnx"]}[backend]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'pqbench[edge]'")
    tiny.prepare(tmp_path)
    write_qdq(tmp_path / "int8.onnx")
    code, said = tiny.run(
        tmp_path,
        "model=onnx",
        "model.file=int8.onnx",
        "model.preprocess.crop=32",
        f"backend={backend},ort",
        "tracking=none",
        "-m",
    )
    rows = {r.experiment.backend: r for r in load_records(tmp_path / "outputs" / "sweeps")}
    assert code == 0, said  # what cannot be is a row, no failure
    assert rows["ort"].ok, rows["ort"].error  # the file itself is good
    refused = rows[backend]
    assert refused.status == "unsupported" and refused.error is not None
    assert "Q/DQ pairs are not read there" in refused.error.message
    assert "backend=ort" in refused.error.hint
