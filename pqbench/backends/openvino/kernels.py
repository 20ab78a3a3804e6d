"""OpenVINO's profiling info, kernel by kernel, with the operators of the file it compiled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pqbench.backends.openvino.graph import QUANTIZABLE
from pqbench.core.backend import KernelTime

if TYPE_CHECKING:
    import openvino as ov

_CONVERSIONS = frozenset({"Reorder", "Convert", "FakeQuantize"})
# What conversion to OpenVINO and NNCF append to the name of an operator, and name by themselves.
_ADDED = re.compile(r"/(WithoutBiases|fq_weights_\d+|fq_output_\d+|fq_input_\d+)$")
_QUANTIZERS = re.compile(
    r"QuantizeLinear|FakeQuantize|/fq_|/quant|Convert|_quantized$", re.IGNORECASE
)
_QUANTIZES = re.compile(r"_QuantizeLinear$")


def compiled_kernels(compiled: ov.CompiledModel, ms: Mapping[str, float]) -> tuple[KernelTime, ...]:
    """Kernels in order of execution.

    Args:
        compiled: A compiled model.
        ms: Milliseconds per inference by the name of its layer.
    """
    found = []
    operations = compiled.get_runtime_model().get_ordered_ops()
    # OpenVINO numbers some names anew each time it compiles; their order stays.
    places = {op.get_friendly_name(): str(place) for place, op in enumerate(operations)}
    for operation in operations:
        info = operation.get_rt_info()
        kind, precision, names = (
            info[key].astype(str) if key in info else ""
            for key in ("layerType", "runtimePrecision", "originalLayersNames")
        )
        if kind in ("Const", "Input", "Output"):
            continue
        name = operation.get_friendly_name()
        listed = [part for part in names.split(",") if part]
        origins = [_ADDED.sub("", part) for part in listed if not _QUANTIZERS.search(part)]
        conversion = kind in _CONVERSIONS or not origins
        if not conversion:  # the tensors that it quantizes, which other runtimes name
            origins += [_QUANTIZES.sub("", part) for part in listed if _QUANTIZES.search(part)]
        found.append(
            KernelTime(
                places[name],
                f"{kind} {precision.lower()}",
                ms.get(name, 0.0),
                tuple(dict.fromkeys(origins)),
                tuple(
                    dict.fromkeys(
                        places[target.get_node().get_friendly_name()]
                        for output in operation.outputs()
                        for target in output.get_target_inputs()
                    )
                ),
                conversion,
                _weights(operation) if kind in QUANTIZABLE else "",
            )
        )
    return tuple(found)


def _weights(operation: ov.Node) -> str:
    """Name of its first constant operand after the data."""
    for port in operation.inputs()[1:]:
        source = port.get_source_output().get_node()
        info = source.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) == "Const":
            return str(source.get_friendly_name())
    return ""
