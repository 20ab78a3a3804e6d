"""OpenVINO's profiling info, kernel by kernel, with the operators of the file it compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pqbench.core.backend import KernelTime, Operator

if TYPE_CHECKING:
    import openvino as ov

_CONVERSIONS = frozenset({"Reorder", "Convert", "FakeQuantize"})
_QUANTIZING = frozenset({"FakeQuantize", "Convert"})
_NO_OPERATORS = frozenset({"Parameter", "Result", "Constant", "ShapeOf"})
_NOT_EXECUTED = frozenset({"Const", "Constant", "Input", "Output"})
_HALF_MS = 0.0005  # of a microsecond, that counters cut off on average
_FAR = 12  # operators between a constant and what reads it as weights


def file_operators(model: ov.Model) -> tuple[Operator, ...]:
    """Operators that depend on an input, without quantization, in order of execution."""
    giving: dict[str, tuple[str, ...]] = {p.get_friendly_name(): () for p in model.get_parameters()}
    found = []
    for operation in model.get_ordered_ops():
        kind, name = operation.get_type_name(), operation.get_friendly_name()
        if kind in _NO_OPERATORS:
            continue
        sources = [p.get_source_output().get_node() for p in operation.inputs()]
        names = [source.get_friendly_name() for source in sources]
        known = [source for source in names if source in giving]
        if not known:
            continue
        read = tuple(dict.fromkeys(one for source in known for one in giving[source]))
        if kind in _QUANTIZING:
            giving[name] = read
            continue
        outputs = tuple(n for port in operation.outputs() for n in sorted(port.get_names()))
        constant = next((s for s, n in zip(sources, names, strict=True) if n not in giving), None)
        found.append(Operator(name, kind, read, outputs, _constant(constant)))
        giving[name] = (name,)
    return tuple(found)


def _constant(node: ov.Node | None) -> str:
    """Name of the constant from which an operand is made; empty if there is none."""
    for _ in range(_FAR):
        if node is None or node.get_type_name() == "Constant":
            break
        inputs = node.inputs()
        node = inputs[0].get_source_output().get_node() if inputs else None
    return "" if node is None else str(node.get_friendly_name())


def compiled_kernels(
    compiled: ov.CompiledModel, model: ov.Model, ms: Mapping[str, float]
) -> tuple[KernelTime, ...]:
    """Kernels in order of execution.

    Args:
        compiled: A compiled model.
        model: The file that it was made of.
        ms: Milliseconds per inference by the name of its layer.
    """
    types = {op.get_friendly_name(): op.get_type_name() for op in model.get_ordered_ops()}
    operations = compiled.get_runtime_model().get_ordered_ops()
    # OpenVINO numbers some names anew each time it compiles; their order stays.
    places = {op.get_friendly_name(): str(place) for place, op in enumerate(operations)}
    found = []
    for operation in operations:
        info = operation.get_rt_info()
        kind, precision, names = (
            info[key].astype(str) if key in info else ""
            for key in ("layerType", "runtimePrecision", "originalLayersNames")
        )
        if kind in _NOT_EXECUTED:
            continue
        name = operation.get_friendly_name()
        told = [n for n in names.split(",") if n in types and types[n] not in _QUANTIZING]
        found.append(
            KernelTime(
                places[name],
                f"{kind} {precision.lower()}",
                ms.get(name, 0.0),
                tuple(dict.fromkeys(told)),
                tuple(
                    dict.fromkeys(
                        places[target.get_node().get_friendly_name()]
                        for output in operation.outputs()
                        for target in output.get_target_inputs()
                    )
                ),
                kind in _CONVERSIONS or not told,
            )
        )
    return tuple(found)


def means_since(
    before: Mapping[str, float], after: Mapping[str, float], warm: int, runs: int
) -> dict[str, float]:
    """Mean ms per call of the calls after the first, with what was cut put back.

    Args:
        before: Means of the first calls in ms, cut to whole microseconds, by the layer's name.
        after: The same over all calls.
        warm: The first calls.
        runs: The calls after them.
    """
    calls = warm + runs
    return {
        name: max(
            ((mean + _HALF_MS) * calls - (before[name] + _HALF_MS) * warm) / runs + _HALF_MS, 0.0
        )
        if mean
        else 0.0
        for name, mean in after.items()
    }
