"""Conversions between representations, each proved by numeric parity with its source."""

from pqbench.core.parity import Parity, check, compare
from pqbench.export.convert import convert
from pqbench.export.edge_reference import mnn_outputs, ncnn_outputs
from pqbench.export.litert_convert import convert_litert
from pqbench.export.mnn_convert import convert_mnn
from pqbench.export.ncnn_convert import convert_ncnn
from pqbench.export.onnx_export import export_onnx
from pqbench.export.openvino_convert import convert_openvino
from pqbench.export.reference import onnx_outputs, openvino_outputs, torch_outputs

__all__ = [
    "Parity",
    "check",
    "compare",
    "convert",
    "convert_litert",
    "convert_mnn",
    "convert_ncnn",
    "convert_openvino",
    "export_onnx",
    "mnn_outputs",
    "ncnn_outputs",
    "onnx_outputs",
    "openvino_outputs",
    "torch_outputs",
]
