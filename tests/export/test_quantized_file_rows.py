"""A user's quantized ONNX file on a runtime that cannot read it: a row with its cause, no crash."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tiny_sweep as tiny
from onnx_files import write_small
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from pqbench.report.load import load_records

RUNTIMES = {"mnn": ("MNN",), "ncnn": ("ncnn", "pnnx")}


class Images(CalibrationDataReader):
    """A few images of noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [{"x": rng.standard_normal((1, 3, 32, 32), np.float32)} for _ in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def write_qdq(path: Path) -> None:
    """A convolution and a product between quantizers, as ONNX Runtime's tool makes them."""
    source = path.with_name("float.onnx")
    write_small(source)
    quantize_static(source, path, Images(), quant_format=QuantFormat.QDQ, per_channel=True)


def test_quantized_file_is_a_row_with_its_cause(tmp_path: Path) -> None:
    """MNN's converter dies on such files, or makes of them what it cannot open: Q/DQ is named."""
    here = [
        backend
        for backend, modules in RUNTIMES.items()
        if all(importlib.util.find_spec(module) for module in modules)
    ]
    if not here:
        pytest.skip("neither MNN nor ncnn is installed: pip install 'pqbench[edge]'")
    tiny.prepare(tmp_path)
    write_qdq(tmp_path / "int8.onnx")
    code, said = tiny.run(
        tmp_path,
        "model=onnx",
        "model.file=int8.onnx",
        "model.preprocess.crop=32",
        f"backend={','.join([*here, 'ort'])}",
        "tracking=none",
        "-m",
    )
    rows = {r.experiment.backend: r for r in load_records(tmp_path / "outputs" / "sweeps")}
    assert code == 0, said  # what cannot be is a row, no failure
    assert rows["ort"].ok, rows["ort"].error  # the file itself is good
    for backend in here:
        refused = rows[backend]
        assert refused.status == "unsupported" and refused.error is not None
        assert "Q/DQ pairs are not read there" in refused.error.message
        assert "backend=ort" in refused.error.hint
