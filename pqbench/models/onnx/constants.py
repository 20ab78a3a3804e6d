"""Inputs beside the images that are the same for every sample: they become part of the file.

``keep_prob`` and ``is_training`` of old TensorFlow files, ``scale_factor`` and ``im_shape`` of
detectors: what they should be fed is the user's to say (``model.constants``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import ConfigError
from pqbench.models.onnx.inputs import Declared, declared, shape_text
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

EXPAND_OPSET = 8  # the first with Expand


def fix_inputs(model: onnx.ModelProto, constants: Mapping[str, Any], name: str) -> list[str]:
    """Take inputs off a model and put values in their place.

    A value is repeated along a first axis that the file leaves free, as often as there are samples.

    Args:
        model: Changed in place.
        constants: ``model.constants``: numbers or nested lists by the input's name, without the
            axis of samples or with one of size 1.
        name: The file's name, for messages.

    Returns:
        A note for the record; none without constants.

    Raises:
        ConfigError: There is no such input, it is no tensor, or a value does not fit it.
    """
    inputs = {value.name: value for value in declared(model)}
    rest = [value for key, value in inputs.items() if key not in constants]
    nodes: list[onnx.NodeProto] = []
    for key, given in constants.items():
        if key not in inputs:
            raise ConfigError(f"model.constants.{key}: {name} takes {', '.join(inputs)}")
        nodes += _fix(model, inputs[key], _value(inputs[key], given, name), rest)
    if nodes:
        onnx_graph.replace_nodes(model.graph, [*nodes, *model.graph.node])
    said = ", ".join(f"{key}={given}" for key, given in constants.items())
    return [f"{name} takes further inputs, fixed for every sample: {said}"] if said else []


def _value(value: Declared, given: Any, name: str) -> npt.NDArray[Any]:
    """A constant in an input's type and shape.

    Raises:
        ConfigError: It does not fit.
    """
    where = f"model.constants.{value.name}={given}"
    if not value.dtype:
        raise ConfigError(f"{where}: this input of {name} is a sequence, not one tensor")
    try:
        array = np.asarray(given, np.dtype(value.dtype))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {name} takes {value}", hint="a number or a list") from error
    if value.sizes is None:
        return array
    free = [axis for axis, size in enumerate(value.sizes) if size is None]
    # Sizes that the file leaves free are the given value's own; the samples' axis is one.
    shape = list(value.sizes)
    aligned = (1,) * (len(shape) - array.ndim) + array.shape
    for axis in free:
        shape[axis] = aligned[axis] if axis < len(aligned) else 1
    try:
        return np.ascontiguousarray(np.broadcast_to(array, [size or 1 for size in shape]))
    except ValueError as error:
        raise ConfigError(
            f"{where} has shape {array.shape}, {name} takes {shape_text(value.sizes)}"
        ) from error


def _fix(
    model: onnx.ModelProto, value: Declared, array: npt.NDArray[Any], rest: Sequence[Declared]
) -> list[onnx.NodeProto]:
    """Store a value in an input's place; gives the nodes that repeat it for every sample."""
    import onnx

    graph = model.graph
    for position, listed in enumerate(graph.input):
        if listed.name == value.name:
            del graph.input[position]
            break
    version = next((o.version for o in model.opset_import if o.domain in onnx_graph.STANDARD), 1)
    anchor = next((other for other in rest if other.sizes and other.sizes[0] is None), None)
    repeated = bool(value.sizes) and value.sizes is not None and value.sizes[0] is None
    if not repeated or anchor is None or array.shape[0] != 1 or version < EXPAND_OPSET:
        graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        return []
    taken = {part: onnx_graph.free_name(graph, f"{value.name}_{part}")
             for part in ("one", "first", "sizes", "samples", "row", "shape")}  # fmt: skip
    stored = {
        "one": array,
        "first": np.array([0], np.int64),
        "row": np.array(array.shape[1:], np.int64),
    }
    for part, content in stored.items():
        graph.initializer.append(onnx.numpy_helper.from_array(content, taken[part]))
    make = onnx.helper.make_node
    return [
        make("Shape", [anchor.name], [taken["sizes"]]),
        make("Gather", [taken["sizes"], taken["first"]], [taken["samples"]], axis=0),
        make("Concat", [taken["samples"], taken["row"]], [taken["shape"]], axis=0),
        make("Expand", [taken["one"], taken["shape"]], [value.name]),
    ]
