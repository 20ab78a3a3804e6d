"""Find the channel ratio that removes the wanted share of parameters, MACs or latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from pqbench.compress.runtime_latency import latency_s
from pqbench.core.errors import UnsupportedError
from pqbench.nets.layers import parameter_count

if TYPE_CHECKING:
    from torch import Tensor, nn

TARGETS = ("channels", "parameters", "macs", "latency")
TRIALS = 7
HIGHEST_RATIO = 0.95
T = TypeVar("T")


def product_macs(network: nn.Module, example: tuple[Tensor, ...]) -> float:
    """Multiply-accumulates of convolutions and matrix products for one batch.

    Counted by torch's ``FlopCounterMode``, which sees operators: subclasses of Conv2d count (they
    do not in Torch-Pruning's own counter), recurrent layers do not.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*example)
    return float(counter.get_total_flops()) / 2


def measures(
    example: tuple[Tensor, ...], runtime: str = "ort", threads: int = 1
) -> Mapping[str, Callable[[nn.Module], float]]:
    """How much of each target a network has.

    Args:
        example: A batch for each of its inputs.
        runtime: For ``latency``: one of ``runtime_latency.RUNTIMES``.
        threads: Of that runtime.
    """
    return {
        "parameters": lambda network: float(parameter_count(network)),
        "macs": lambda network: product_macs(network, example),
        "latency": lambda network: latency_s(network, example, runtime, threads),
    }


def find_ratio(
    before: float,
    share: float,
    target: str,
    attempt: Callable[[float], tuple[T, float]],
) -> tuple[float, T, float]:
    """The smallest channel ratio found by bisection that removes at least ``share``.

    Args:
        before: Parameters, MACs or seconds of the whole network.
        share: Share of that to remove, in (0, 1).
        target: Its name, for the message.
        attempt: Prunes a copy of the network at a ratio; gives what came of it, and what of the
            target is left.

    Returns:
        The ratio, and both that its attempt gave.

    Raises:
        UnsupportedError: Even the highest ratio leaves more.
    """
    best, least = attempt(HIGHEST_RATIO)
    if least > before * (1 - share):
        raise UnsupportedError(
            f"no channel ratio up to {HIGHEST_RATIO} removes {share:.0%} of the {target}: the most "
            f"is {1 - least / before:.0%}",
            hint="lower pruning_ratio, or raise max_layer_ratio",
        )
    low, high = 0.0, HIGHEST_RATIO
    for _ in range(TRIALS):
        middle = (low + high) / 2
        found, left = attempt(middle)
        if left <= before * (1 - share):
            best, least, high = found, left, middle
        else:
            low = middle
    return high, best, least
