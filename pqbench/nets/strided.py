"""Pointwise convolutions with a stride, computed so that their gradients are right on a CPU.

oneDNN, which PyTorch computes convolutions with on x86, writes past its workspace in the gradient
of a strided 1 x 1 convolution that has fewer input channels than a vector has floats (16 with
AVX-512, 8 with AVX2), channels last: wrong gradients, a hang, or a crash of the process
(https://github.com/uxlfoundation/oneDNN/issues/6035, open in November 2026). A ResNet's shortcuts
become such layers when they are pruned. Taking every s-th pixel first and convolving without a
stride is the same sum of products by another kernel.

torch is imported when the function is called, never when this module is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

VECTOR = 16  # floats of the widest vector


@contextmanager
def pixels_first() -> Iterator[None]:
    """Within the block, such convolutions take their pixels first, whoever calls them."""
    import torch
    from torch.overrides import TorchFunctionMode

    class PixelsFirst(TorchFunctionMode):
        """Sees every call of ``torch.nn.functional.conv2d`` of this thread."""

        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Sequence[type],
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
        ) -> Any:
            named = dict(kwargs or {})
            if func is torch.nn.functional.conv2d:
                return _convolve(*args, **named)
            return func(*args, **named)

    with PixelsFirst():
        yield


def _convolve(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """``conv2d`` with its own arguments."""
    from torch.nn.functional import conv2d

    steps = (stride, stride) if isinstance(stride, int) else tuple(stride)
    steps = steps * 2 if len(steps) == 1 else steps
    padded = padding not in (0, (0,), (0, 0), [0], [0, 0], "valid")
    pointwise = tuple(weight.shape[2:]) == (1, 1) and groups == 1 and not padded
    if pointwise and steps != (1, 1) and weight.shape[1] % VECTOR and input.device.type == "cpu":
        return conv2d(input[..., :: steps[0], :: steps[1]], weight, bias)
    return conv2d(input, weight, bias, stride, padding, dilation, groups)
