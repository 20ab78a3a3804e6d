"""ONNX Runtime's profile, kernel by kernel, traced back to the operators of the file it loaded."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.backends.ort.graph import FLOAT_KERNELS, INTEGER_KERNELS
from pqbench.core.backend import KernelProfile, KernelTime

if TYPE_CHECKING:
    import onnx

_CONVERSIONS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ReorderInput", "ReorderOutput"}
)
_LAYOUT = frozenset({"Transpose", "Cast"})  # conversions where the file has no such operator
# What its optimizers append to the name of a node or tensor.
_ADDED = re.compile(
    r"(_token_\d+|_nchwc|_nhwc|_quant(ized)?|_(De)?[Qq]uantizeLinear(_(In|Out)put)?|_QuantizeInput|"
    r"_DequantizeOutput)+$"
)
_HEAVY = FLOAT_KERNELS | INTEGER_KERNELS
_STEPS = 8  # element-wise operators that may hang on a product


class Origins:
    """Which operators of a file each kernel computes.

    Args:
        model: The file that was loaded, without its external weights.
        kernels: Of the graph that ONNX Runtime made of it, by name, in order.
    """

    def __init__(self, model: onnx.ModelProto, kernels: Mapping[str, onnx.NodeProto]) -> None:
        nodes = [node for node in model.graph.node if node.op_type not in _CONVERSIONS]
        for node in nodes:
            node.name = node.name or node.output[0]
        self._nodes: dict[str, onnx.NodeProto] = {node.name: node for node in nodes}
        self._producer: dict[str, onnx.NodeProto] = {
            name: node for node in nodes for name in node.output if name
        }
        self._constants = {w.name for w in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type in _CONVERSIONS and node.input:
                if node.input[0] in self._constants:  # weights behind their own quantizers
                    self._constants.update(node.output)
                elif node.input[0] in self._producer:
                    self._producer.update(dict.fromkeys(node.output, self._producer[node.input[0]]))
        self._found = {
            name: self._named(node) for name, node in kernels.items() if not _converts(node)
        }
        self._expanded(kernels)
        self._fused()

    def of(self, kernel: str) -> tuple[str, ...]:
        """Names of the operators that a kernel computes, then of the tensors that these give.

        Other runtimes name some operators by what they give. Empty if ONNX Runtime added it.
        """
        names = self._found.get(kernel, [])
        given = [tensor for name in names for tensor in self._nodes[name].output if tensor]
        return tuple(dict.fromkeys([*names, *given]))

    def weights(self, kernel: str) -> str:
        """Name of the constant that the first product among its operators reads."""
        for name in self._found.get(kernel, ()):
            if self._nodes[name].op_type in _HEAVY:
                inputs = self._nodes[name].input[1:]
                found = next((i for i in inputs if i in self._constants), "")
                return _ADDED.sub("", found)
        return ""

    def _lookup(self, name: str) -> onnx.NodeProto | None:
        for candidate in (name, _ADDED.sub("", name)):
            if candidate in self._nodes:
                return self._nodes[candidate]
            if candidate in self._producer:
                return self._producer[candidate]
        return None

    def _named(self, kernel: onnx.NodeProto) -> list[str]:
        """By its own name and that of its outputs, which are often kept."""
        hits = (self._lookup(name) for name in (kernel.name, *kernel.output) if name)
        names = list(dict.fromkeys(node.name for node in hits if node is not None))
        if kernel.op_type in _HEAVY and not any(self._nodes[n].op_type in _HEAVY for n in names):
            for name in names:
                names = [*self._back(name), *names]
        return list(dict.fromkeys(names))

    def _back(self, name: str) -> list[str]:
        """The operators from a product to this one, where it hangs on one."""
        way: list[str] = []
        node = self._nodes[name]
        for _ in range(_STEPS):
            earlier = [self._producer[i] for i in node.input if i in self._producer]
            if not earlier:
                return []
            node = earlier[0]
            way.insert(0, node.name)
            if node.op_type in _HEAVY:
                return way
        return []

    def _expanded(self, kernels: Mapping[str, onnx.NodeProto]) -> None:
        """Kernels without a name are parts of an operator whose output a later one names."""
        readers: dict[str, list[str]] = defaultdict(list)
        for name, node in kernels.items():
            for tensor in node.input:
                readers[tensor].append(name)
        for name in reversed([n for n, own in self._found.items() if not own]):
            ahead = [r for tensor in kernels[name].output for r in readers[tensor]]
            for other in ahead:
                if _converts(kernels[other]):
                    hit = self._lookup(kernels[other].name)
                    self._found[name] = [] if hit is None else [hit.name]
                elif not kernels[other].name:
                    self._found[name] = list(self._found[other])
                if self._found[name]:
                    break

    def _fused(self) -> None:
        """Operators that no kernel names were fused into the kernel before them."""
        owner = {name: kernel for kernel, own in self._found.items() for name in own}
        for name, node in self._nodes.items():  # in topological order
            if name in owner:
                continue
            before = [self._producer[i].name for i in node.input if i in self._producer]
            last = [owner[other] for other in reversed(list(self._nodes)) if other in before
                    and other in owner][:1]  # fmt: skip
            for kernel in last:
                owner[name] = kernel
                self._found[kernel].append(name)


def _converts(kernel: onnx.NodeProto) -> bool:
    return kernel.op_type in _CONVERSIONS


def kernel_profile(
    loaded: onnx.ModelProto, optimized: onnx.ModelProto, profile: Path, skip: int, runs: int
) -> KernelProfile:
    """Times by kernel.

    Args:
        loaded: The file that the session was made of.
        optimized: The graph that ONNX Runtime wrote.
        profile: What its profiler wrote.
        skip: Runs at the start that do not count.
        runs: Runs after them.
    """
    events: list[dict[str, Any]] = json.loads(profile.read_text(encoding="utf-8"))
    whole = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])[
        skip:
    ]
    us: dict[str, float] = defaultdict(float)
    for run in whole:
        end = run["ts"] + run["dur"]
        inside = [e for e in events if e.get("cat") == "Node" and run["ts"] <= e["ts"] <= end]
        timed = sorted(
            (e for e in inside if e["name"].endswith("_kernel_time")), key=lambda e: e["ts"]
        )
        names = _unique((_given_name(e), e["args"]["op_name"]) for e in timed)
        for name, event in zip(names, timed, strict=True):
            us[name] += event["dur"]
    return KernelProfile(
        _kernels(loaded, optimized, {name: total / 1000 / runs for name, total in us.items()}),
        sum(run["dur"] for run in whole) / 1000 / runs,
    )


def _given_name(event: Mapping[str, Any]) -> str:
    """The node's name; empty where the profiler made one of its type and number."""
    name: str = event["name"].removesuffix("_kernel_time")
    made = f"{event['args']['op_name']}_{event['args']['node_index']}"
    return "" if name == made else name


def _unique(named: Iterable[tuple[str, str]]) -> list[str]:
    """Names; what has none is told by its type and by which of that type it is."""
    counts: Counter[str] = Counter()
    found = []
    for name, kind in named:
        if not name:
            counts[kind] += 1
        found.append(name or f"{kind} #{counts[kind]}")
    return found


def _kernels(
    loaded: onnx.ModelProto, optimized: onnx.ModelProto, ms: Mapping[str, float]
) -> tuple[KernelTime, ...]:
    nodes = list(optimized.graph.node)
    names = _unique((node.name, node.op_type) for node in nodes)
    kernels = dict(zip(names, nodes, strict=True))
    origins = Origins(loaded, kernels)
    readers: dict[str, list[str]] = defaultdict(list)
    for name, node in kernels.items():
        for tensor in node.input:
            readers[tensor].append(name)
    found = []
    for name, node in kernels.items():
        own = origins.of(name)
        layout = "nchwc " if "nchwc" in node.domain else ""
        found.append(
            KernelTime(
                name,
                layout + node.op_type,
                ms.get(name, 0.0),
                own,
                tuple(dict.fromkeys(r for tensor in node.output for r in readers[tensor])),
                _converts(node) or (node.op_type in _LAYOUT and not own),
                origins.weights(name) if node.op_type in _HEAVY else "",
            )
        )
    return tuple(found)
