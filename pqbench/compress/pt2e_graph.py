"""PyTorch's quantized graph: made from a network by torchao, and made again from what is stored.

A quantized graph is a program, and PyTorch's own file format for programs loads by pickle. Stored
instead are the float network's builder and shapes, the int8 weights with scales and biases, and
the scale and zero point of every quantized activation; the graph is captured anew from the builder
and takes those values. torch is imported with this module, so it is imported when a network is
built, never before.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from pqbench.core.errors import UnsupportedError, WeightsError
from pqbench.nets.checkpoint import skeleton

ACTIVATION = ("quantize_per_tensor", "dequantize_per_tensor")
WEIGHT = "dequantize_per_channel"
EXPORT_BATCH = 2  # torch.export takes a batch of 1 for a constant


class QuantizedGraph(nn.Module):
    """A captured graph as an ordinary module: it has no training mode to change to.

    Args:
        graph: The converted graph.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = graph
        self.training = False

    def train(self, mode: bool = True) -> QuantizedGraph:
        """Stay in eval mode: an exported graph cannot change it."""
        del mode
        return self

    def forward(self, *inputs: Tensor) -> Any:
        """As the float network's."""
        return self.graph_module(*inputs)

    def activations(self) -> list[tuple[float, int]]:
        """Scale and zero point of each quantized activation, in the order of the graph."""
        return [(float(n.args[1]), int(n.args[2])) for n in _nodes(self.graph_module, ACTIVATION)]  # type: ignore[arg-type]

    def weights(self) -> int:
        """How many layers hold int8 weights."""
        return len(_nodes(self.graph_module, (WEIGHT,)))


def _nodes(graph: fx.GraphModule, names: Sequence[str]) -> list[fx.Node]:
    return [
        node
        for node in graph.graph.nodes
        if node.op == "call_function"
        and str(node.target).startswith(tuple(f"quantized_decomposed.{name}." for name in names))
    ]


def quantize(
    network: nn.Module,
    inputs: Sequence[tuple[Sequence[int | None], str]],
    calibrate: Callable[[nn.Module], None],
    reduce_range: bool,
    ignored_layers: Sequence[str],
) -> QuantizedGraph:
    """Capture, observe, convert.

    Args:
        network: In eval mode, float32, on the CPU.
        inputs: Shape (None for the batch) and element type of each input.
        calibrate: Runs the observed network on the calibration data.
        reduce_range: 7-bit activations, for CPUs without VNNI.
        ignored_layers: Dotted names of modules left in float.

    Raises:
        UnsupportedError: PyTorch cannot capture the network as one graph.
    """
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(
        x86.get_default_x86_inductor_quantization_config(reduce_range=reduce_range)
    )
    for name in ignored_layers:
        quantizer.set_module_name_qconfig(name, None)
    examples = tuple(
        torch.ones([EXPORT_BATCH, *(d or 1 for d in shape[1:])], dtype=getattr(torch, dtype))
        for shape, dtype in inputs
    )
    batch = torch.export.Dim("batch", min=1, max=4096)
    free = tuple({0: batch} if shape[0] is None else {} for shape, _ in inputs)
    return QuantizedGraph(capture_and_quantize(network, examples, free, quantizer, calibrate))


def capture_and_quantize(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    free: tuple[dict[int, Any], ...] | None,
    quantizer: Any,
    calibrate: Callable[[nn.Module], None],
) -> fx.GraphModule:
    """Capture, observe, convert with a quantizer of torchao's protocol.

    Args:
        network: In eval mode, float32, on the CPU.
        examples: One tensor an input.
        free: Which of their sizes are free, by axis; None: none.
        quantizer: Says which operators get quantizers, and of what sort.
        calibrate: Runs the observed network on the calibration data.

    Raises:
        UnsupportedError: PyTorch cannot capture the network as one graph.
    """
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    with _quiet():
        graph = _capture(network, examples, free)
        observed = move_exported_model_to_eval(prepare_pt2e(graph, quantizer))
        with torch.no_grad():
            calibrate(observed)
        converted: fx.GraphModule = convert_pt2e(observed)
    _drop_unused(converted)
    return converted


def _capture(
    network: nn.Module, examples: tuple[Tensor, ...], free: tuple[dict[int, Any], ...] | None
) -> fx.GraphModule:
    try:
        # not strict, nearly nothing is quantized: the capture loses which module a layer was
        program = torch.export.export(network, examples, dynamic_shapes=free, strict=True)
    except Exception as error:  # torch raises kinds of its own without a common base
        raise UnsupportedError(
            f"torch.export cannot capture this network as one graph: {_first_line(error)}",
            hint="use compress=ort_int8 or nncf_int8 on another backend",
        ) from error
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    return graph


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _drop_unused(graph: fx.GraphModule) -> None:
    """Remove the float weights that the conversion leaves beside the int8 ones."""
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for module_name, module in list(graph.named_modules()):
        for name in (*module._parameters, *module._buffers):
            if (f"{module_name}.{name}" if module_name else name) not in used:
                delattr(module, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on what it deprecates in itself."""
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def quantized_network(
    network: str,
    attributes: str,
    shapes: str,
    inputs: str,
    activations: Sequence[Sequence[float]],
    reduce_range: bool,
    ignored_layers: Sequence[str] = (),
) -> nn.Module:
    """Build a quantized graph for a checkpoint's tensors.

    Args:
        network: The float network's ``_target_`` and arguments, as JSON.
        attributes: Integer attributes in which it differs from a fresh one, as JSON.
        shapes: Shape and element type of each of its tensors by name, as JSON.
        inputs: Shape and element type of each input, as JSON.
        activations: Scale and zero point of each quantized activation.
        reduce_range: As it was quantized.
        ignored_layers: As it was quantized.

    Raises:
        WeightsError: The graph captured by this version of PyTorch has another number of quantized
            activations than the stored one.
    """
    specs: list[tuple[list[int | None], str]] = json.loads(inputs)
    structure: Mapping[str, Any] = json.loads(attributes)
    tensors = {
        key: torch.zeros(shape, dtype=getattr(torch, kind))
        for key, (shape, kind) in json.loads(shapes).items()
    }
    bare = skeleton(json.loads(network), structure, tensors).eval()

    def once(observed: nn.Module) -> None:
        observed(
            *(
                torch.ones([EXPORT_BATCH, *(d or 1 for d in s[1:])], dtype=getattr(torch, kind))
                for s, kind in specs
            )
        )

    graph = quantize(bare, specs, once, reduce_range, ignored_layers)
    nodes = _nodes(graph.graph_module, ACTIVATION)
    if len(nodes) != len(activations):
        raise WeightsError(
            f"the stored model has {len(activations)} quantized activations, the graph of torch "
            f"{torch.__version__} has {len(nodes)}",
            hint="quantize again with this version",
        )
    for node, (scale, zero) in zip(nodes, activations, strict=True):
        node.args = (node.args[0], float(scale), int(zero), *node.args[3:])
    graph.graph_module.recompile()
    return graph
