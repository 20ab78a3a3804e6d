"""A user's quantized ONNX file on a runtime that cannot read it: a row with its cause, no crash."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_sweep as tiny
from onnx import TensorProto, helper, numpy_helper

from pqbench.report.load import load_records

CAUSES = {"mnn": "SIGABRT", "ncnn": "ncnn has no layer for"}


def write_qdq(path: Path) -> None:
    """A convolution between quantizers and dequantizers, its mean per channel as the scores."""
    weight = np.random.default_rng(0).integers(-127, 128, (2, 3, 3, 3)).astype(np.int8)
    arrays = {
        "w": weight,
        "step": np.float32(0.02),
        "zero": np.int8(0),
        "steps": np.full(2, 0.01, np.float32),
        "zeros": np.zeros(2, np.int8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "steps", "zeros"], ["dw"], axis=0),
            helper.make_node("Conv", ["d", "dw"], ["c"]),
            helper.make_node("GlobalAveragePool", ["c"], ["g"]),
            helper.make_node("Flatten", ["g"], ["scores"]),
        ],
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.mark.parametrize("backend", sorted(CAUSES))
def test_quantized_file_is_a_row_with_its_cause(backend: str, tmp_path: Path) -> None:
    """MNN's converter ends its process by SIGABRT on these files; the experiment tells so."""
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
    assert code == 3, said  # some experiment failed: its row says why
    assert rows["ort"].ok, rows["ort"].error  # the file itself is good
    refused = rows[backend]
    assert refused.status == "unsupported" and refused.error is not None
    assert CAUSES[backend] in refused.error.message
    assert "backend=ort" in refused.error.hint
