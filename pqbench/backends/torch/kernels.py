"""Where an eager PyTorch network spends its time, module by module.

PyTorch's own profiler names operators, not the layers that called them. An eager network is a tree
of calls, so a clock read as each module begins and ends splits the whole call among them, and
nothing is left over: a module's own time is that of its call less that of the modules it calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pqbench.core.backend import KernelProfile, KernelTime, Operator

if TYPE_CHECKING:
    from torch import nn

WARM_UP_CALLS = 2
_TRANSPARENT = ("Sequential", "ModuleList", "ModuleDict")  # they only pass on what they are given


class _Clock:
    """Own time of each module, in ns."""

    def __init__(self) -> None:
        self.own_ns: dict[str, int] = {}
        self._running: list[str] = []
        self._since = 0

    def begin(self, name: str) -> None:
        """A module's call begins; the one that calls it pauses."""
        self._credit()
        self._running.append(name)

    def end(self) -> None:
        """It ends; the one that called it goes on."""
        self._credit()
        self._running.pop()

    def _credit(self) -> None:
        now = time.perf_counter_ns()
        if self._running:
            name = self._running[-1]
            self.own_ns[name] = self.own_ns.get(name, 0) + now - self._since
        self._since = now


def module_times(network: nn.Module, call: Callable[[], object], runs: int) -> KernelProfile:
    """Time of each module, by its dotted name; the root's is its class.

    Args:
        network: An eager network; hooks are added for the calls, and removed.
        call: One inference with it, on the CPU.
        runs: Inferences to average over.
    """
    clock, kinds, weights = _Clock(), {}, {}
    hooks = []
    for path, module in network.named_modules():
        kind = type(module).__name__
        if path and kind in _TRANSPARENT:
            continue
        name = path or kind
        kinds[name] = kind
        own = dict(module.named_parameters(recurse=False))
        weights[name] = f"{path}.weight" if path and "weight" in own else ""
        hooks.append(module.register_forward_pre_hook(_begin(clock, name)))
        hooks.append(module.register_forward_hook(_end(clock)))
    try:
        for _ in range(WARM_UP_CALLS):
            call()
        clock.own_ns.clear()
        began = time.perf_counter_ns()
        for _ in range(runs):
            call()
        whole_ns = time.perf_counter_ns() - began
    finally:
        for hook in hooks:
            hook.remove()
    order = list(clock.own_ns)
    before, after = [None, *order[:-1]], [*order[1:], None]
    return KernelProfile(
        tuple(
            KernelTime(n, kinds[n], clock.own_ns[n] / runs / 1e6, (n,), (a,) if a else ())
            for n, a in zip(order, after, strict=True)
        ),
        whole_ns / runs / 1e6,
        tuple(
            Operator(n, kinds[n], (b,) if b else (), (), weights[n])
            for n, b in zip(order, before, strict=True)
        ),
    )


def _begin(clock: _Clock, name: str) -> Callable[..., Any]:
    def hook(*_: object) -> None:
        clock.begin(name)

    return hook


def _end(clock: _Clock) -> Callable[..., Any]:
    def hook(*_: object) -> None:
        clock.end()

    return hook
