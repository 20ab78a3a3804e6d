"""See which operators PyTorch executes, on which device and in which element type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pqbench.core.errors import PlacementError
from pqbench.nets.layers import flatten_outputs

PRODUCTS = frozenset(
    {
        "convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution", "conv1d",
        "conv2d", "conv3d", "_convolution_pointwise", "_linear_pointwise", "_mkl_linear",
        "mkldnn_rnn_layer", "mm", "addmm", "bmm", "baddbmm", "matmul", "linear",
        "scaled_dot_product_attention",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    }
)  # fmt: skip
INTEGER = frozenset(
    {
        "linear_dynamic", "quantized_lstm",
        "qconv_pointwise", "qconv2d_pointwise", "qlinear_pointwise",
    }
)  # fmt: skip
"""Operators that multiply in 8-bit integers, though what they are given and give is float."""
NEIGHBOURS = frozenset(
    {
        "relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid", "tanh", "elu",
        "leaky_relu", "prelu", "_prelu_kernel", "mish", "softmax", "_softmax", "log_softmax",
        "_log_softmax", "clamp", "clamp_min", "batch_norm", "native_batch_norm",
        "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
        "layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "max_pool2d",
        "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d",
        "mean", "sum", "cat", "add", "sub", "mul", "div", "embedding", "lstm", "gru", "_cudnn_rnn",
        "_thnn_fused_lstm_cell", "upsample_bilinear2d", "upsample_nearest2d",
    }
)  # fmt: skip
"""Operators that compute beside the products. What makes, moves or views a tensor is not among
them: ``lift_fresh`` wraps an example input on the CPU whatever the network's device."""
TYPES = {
    "float32": "f32", "bfloat16": "bf16", "float16": "f16",
    "float": "f32", "BFloat16": "bf16", "Half": "f16",
}  # fmt: skip


@dataclass(frozen=True)
class SeenOperator:
    """One operator that PyTorch executed.

    Attributes:
        name: ``convolution``, ``addmm``, ...
        dtype: ``f32``, ``bf16``, ``f16`` or PyTorch's name of the element type: the first result's,
            or the first input's where PyTorch was profiled.
        device: Device type, ``cpu`` or ``cuda``.
    """

    name: str
    dtype: str
    device: str


def computes(name: str) -> bool:
    """Whether an operator computes what a network is for; in place (``relu_``) or not."""
    return any(n in PRODUCTS or n in INTEGER or n in NEIGHBOURS for n in (name, name.rstrip("_")))


def check_devices(seen: Sequence[SeenOperator], kind: str) -> tuple[dict[str, int], dict[str, int]]:
    """Prove that what computes does so on the device that was asked for.

    Args:
        seen: The operators of one inference.
        kind: Device type that was asked for.

    Returns:
        Operators on the device, by its type; and those elsewhere, which only make or move tensors,
        by name and device.

    Raises:
        PlacementError: A convolution, a product or a neighbour of theirs runs elsewhere, or nothing
            that computes was seen at all.
    """
    elsewhere = [op for op in seen if op.device != kind]
    odd = Counter(f"{op.name} on {op.device}" for op in elsewhere if computes(op.name))
    if odd:
        raise PlacementError(f"asked PyTorch for {kind}, but it runs {dict(odd)}")
    if not any(computes(op.name) for op in seen):
        raise PlacementError(f"asked PyTorch for {kind}, but no operator was seen that computes")
    named = Counter(f"{op.name} on {op.device}" for op in elsewhere)
    return {kind: len(seen) - len(elsewhere)}, dict(named)


def watch_operators(call: Callable[[], object]) -> list[SeenOperator]:
    """Every operator that PyTorch dispatches while ``call`` runs, views included.

    Sees eager networks and TorchScript. Code made by ``torch.compile`` refuses to run under it.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[SeenOperator] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            first = next((t for t in flatten_outputs(result) if isinstance(t, torch.Tensor)), None)
            if first is not None:
                name = func.overloadpacket.__name__
                dtype = str(first.dtype).removeprefix("torch.")
                seen.append(SeenOperator(name, TYPES.get(dtype, dtype), first.device.type))
            return result

    with Watch():  # type: ignore[no-untyped-call]
        call()
    return seen


def watch_compiled(call: Callable[[], object], device: str) -> list[SeenOperator]:
    """Library operators that compiled code calls, from PyTorch's profiler.

    What the compiler fused into kernels of its own (activations, normalization) is not among them;
    convolutions and matrix products are, unless it generated code for those as well.

    Args:
        call: Runs the compiled network once.
        device: Device type that the network was put on. An operator of this list works on tensors
            of that device, or PyTorch would have refused it.
    """
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        call()
    results: Any = profiler.profiler
    events = [e for e in results.kineto_results.events() if "::" in e.name()]
    events.sort(key=lambda e: (e.start_thread_id(), e.start_ns(), -e.duration_ns()))
    seen: list[SeenOperator] = []
    inside: tuple[int, int] = (-1, -1)
    for event in events:  # an operator calls others: only the outermost counts
        thread, start = event.start_thread_id(), event.start_ns()
        if thread == inside[0] and start < inside[1]:
            continue
        inside = (thread, start + event.duration_ns())
        kind = next((t for t in event.dtypes() if t not in ("", "Scalar", "ScalarList")), "")
        kind = kind.removeprefix("c10::")
        seen.append(SeenOperator(event.name().rpartition("::")[2], TYPES.get(kind, kind), device))
    return seen
