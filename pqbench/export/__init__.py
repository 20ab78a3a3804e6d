"""Conversions between representations, each proved by numeric parity with its source."""

from pqbench.core.parity import Parity, check, compare
from pqbench.export.convert import convert
from pqbench.export.onnx_export import export_onnx
from pqbench.export.openvino_convert import convert_openvino
from pqbench.export.reference import onnx_outputs, openvino_outputs, torch_outputs

__all__ = [
    "Parity",
    "check",
    "compare",
    "convert",
    "convert_openvino",
    "export_onnx",
    "onnx_outputs",
    "openvino_outputs",
    "torch_outputs",
]
