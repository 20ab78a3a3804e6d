"""ONNX Runtime's profile, kernel by kernel, with the operators of the file it loaded."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pqbench.backends.ort.graph import load
from pqbench.core.backend import KernelTime, Operator

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

_CONVERSIONS = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ReorderInput",
        "ReorderOutput", "Transpose", "Cast",
    }
)  # fmt: skip
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_CHAIN, _CHAIN_RUNS = 100, 80
_FLOOR_MS = 0.0005  # the profiler cuts a time to whole microseconds: half of one is put back
# What ONNX Runtime puts around the name of a node, or of a result, that it replaced.
_ADDED = re.compile(r"^(fused )+|(_nchwc|_token_\d+)+$")


def file_operators(model: onnx.ModelProto) -> tuple[Operator, ...]:
    """Operators that depend on an input, without quantization, in the file's order."""
    constants = {w.name for w in model.graph.initializer}
    # by the name of a result: the operators that give it, the input none
    giving: dict[str, tuple[str, ...]] = {
        value.name: () for value in model.graph.input if value.name not in constants
    }
    found = []
    for node in model.graph.node:
        known = [name for name in node.input if name in giving]
        if not known:
            continue
        read = tuple(dict.fromkeys(source for name in known for source in giving[name]))
        if node.op_type in _QUANTIZING:
            giving |= dict.fromkeys(node.output, read)
            continue
        name = node.name or node.output[0]
        weights = next((i for i in node.input if i in constants), "")
        found.append(Operator(name, node.op_type, read, tuple(node.output), weights))
        giving |= dict.fromkeys(node.output, (name,))
    return tuple(found)


@dataclass(frozen=True)
class ProfilingCost:
    """What the profiler adds, in ms: to the time told of one kernel, and to the call for each."""

    kernel_ms: float = 0.0
    call_ms: float = 0.0


def profiling_cost(again: Callable[..., ort.InferenceSession], folder: Path) -> ProfilingCost:
    """What ONNX Runtime's profiler itself takes.

    It describes a kernel's results before it stops the clock: a few microseconds, which matter
    where one side has twice as many kernels. A chain of additions of one number is timed without a
    profiler, and with one.

    Args:
        again: Opens a session of a file (``path``) with the options of what is profiled.
        folder: For files.
    """
    files = folder / "single.onnx", folder / "chain.onnx"
    for file, count in zip(files, (1, _CHAIN + 1), strict=True):
        file.write_bytes(_chain(count))
    single, chain = (_median_ms(again(path=file)) for file in files)
    plain = (chain - single) / _CHAIN
    optimized = folder / "optimized_chain.onnx"
    session = again(path=files[1], optimized=optimized, profile=folder / "chain")
    profiled = (_median_ms(session) - single) / _CHAIN
    told, _ = kernel_times(load(optimized), Path(session.end_profiling()), _CHAIN_RUNS // 4)
    mean = float(np.mean([kernel.ms for kernel in told]))
    return ProfilingCost(max(mean - plain, 0.0), max(profiled - plain, 0.0))


def _chain(count: int) -> bytes:
    """A model of so many additions, one after the other."""
    from onnx import TensorProto, helper

    shape = [1, 1, 1, 1]
    names = ["x", *(f"t{place}" for place in range(1, count)), "y"]
    graph = helper.make_graph(
        [helper.make_node("Add", [a, "one"], [b], b) for a, b in itertools.pairwise(names)],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    encoded: bytes = model.SerializeToString()
    return encoded


def _median_ms(session: ort.InferenceSession) -> float:
    feed = {"x": np.zeros((1, 1, 1, 1), np.float32)}
    times = []
    for _ in range(_CHAIN_RUNS):
        begin = time.perf_counter_ns()
        session.run(None, feed)
        times.append(time.perf_counter_ns() - begin)
    return float(np.median(times)) / 1e6


def kernel_times(
    optimized: onnx.ModelProto,
    profile: Path,
    skip: int,
    cost: ProfilingCost = ProfilingCost(),  # frozen
) -> tuple[tuple[KernelTime, ...], float]:
    """The nodes of the optimized graph with their times, in the graph's order, and ms of a call.

    Args:
        optimized: The graph that ONNX Runtime wrote after its own optimization.
        profile: The JSON that its profiler wrote of a session with that graph.
        skip: Runs at the start that do not count.
        cost: Taken off each kernel's time, and off the call's for each.
    """
    nodes = list(optimized.graph.node)
    events: list[dict[str, Any]] = json.loads(profile.read_text(encoding="utf-8"))
    ms, call_ms = _times(nodes, events, skip)
    names = _unique(nodes)
    readers: dict[str, list[str]] = defaultdict(list)
    for name, node in zip(names, nodes, strict=True):
        for tensor in node.input:
            readers[tensor].append(name)
    found = []
    for name, node, own in zip(names, nodes, ms, strict=True):
        converts = node.op_type in _CONVERSIONS
        # a layout change gives the result of the operator before it under that one's name
        told = [node.name] if converts else [node.name, *node.output]
        found.append(
            KernelTime(
                name,
                ("nchwc " if "nchwc" in node.domain else "") + node.op_type,
                max(own - cost.kernel_ms, 0.0),
                tuple(dict.fromkeys(x for n in told for x in (n, _ADDED.sub("", n)) if x)),
                tuple(dict.fromkeys(r for tensor in node.output for r in readers[tensor])),
                converts,
            )
        )
    return tuple(found), max(call_ms - cost.call_ms * len(nodes), sum(k.ms for k in found))


def _unique(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Names; what has none is told by its type and by which of that type it is."""
    counts: Counter[str] = Counter()
    names = []
    for node in nodes:
        counts[node.op_type] += not node.name
        names.append(node.name or f"{node.op_type} #{counts[node.op_type]}")
    return names


def _times(
    nodes: Sequence[onnx.NodeProto], events: Sequence[Mapping[str, Any]], skip: int
) -> tuple[list[float], float]:
    """Mean ms of each node and of the whole call, over the runs of middling length.

    A run that was held up says nothing of a layer; the mean of whole runs keeps a sum a sum.
    """
    whole = sorted(
        (e for e in events if e.get("name") == "model_run"), key=lambda e: float(e["ts"])
    )
    starts, calls = (np.array([float(e[key]) for e in whole[skip:]]) for key in ("ts", "dur"))
    times = np.zeros((len(starts), len(nodes)))
    named = {node.name: place for place, node in enumerate(nodes) if node.name}
    unnamed: dict[str, list[int]] = defaultdict(list)
    for place, node in enumerate(nodes):
        if not node.name:
            unnamed[node.op_type].append(place)
    seen: Counter[tuple[int, str]] = Counter()
    ran = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    for event in sorted(ran, key=lambda e: float(e["ts"])):
        run = int(np.searchsorted(starts, event["ts"], side="right")) - 1
        if run < 0:
            continue
        kind = event["args"]["op_name"]
        here = named.get(event["name"].removesuffix("_kernel_time"))
        if here is None:  # of no name: in order; or of a loop's body, whose node counts
            turn, seen[run, kind] = seen[run, kind], seen[run, kind] + 1
            here = unnamed[kind][turn] if turn < len(unnamed[kind]) else None
        if here is not None:
            times[run, here] += event["dur"] / 1000.0 + _FLOOR_MS
    totals = times.sum(axis=1)
    low, high = (
        np.quantile(totals, 0.25, method="lower"),
        np.quantile(totals, 0.75, method="higher"),
    )
    middling = (totals >= low) & (totals <= high)
    mean = [float(value) for value in times[middling].mean(axis=0)]
    return mean, float(calls[middling].mean()) / 1000.0
