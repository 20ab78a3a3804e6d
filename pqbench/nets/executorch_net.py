"""ExecuTorch programs: what is in one, and a method of one that can be called.

https://docs.pytorch.org/executorch
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import UnsupportedError
from pqbench.core.files import read_limited, write_json

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PROGRAM, OPERATORS = "model.pte", "operators.json"
XNNPACK = "XnnpackBackend"
# Which calls of an edge program are products; the rest of a name is the overload.
PRODUCTS = ("convolution", "linear", "addmm", "mm", "bmm", "scaled_dot_product_attention")
_QUANTIZERS = tuple(
    f"{way}_per_{what}" for way in ("quantize", "dequantize") for what in ("tensor", "channel")
)
_FACTORS = 2


def count_operators(program: ExportedProgram) -> dict[str, dict[str, int]]:
    """Operators by who runs them, ``delegated`` to XNNPACK or ``portable``, and by name.

    ``integer`` counts once more those products of XNNPACK's whose inputs and weights are quantized:
    XNNPACK merges the quantizers around them into one integer kernel.

    Args:
        program: The edge program after its parts were delegated.
    """
    kinds = ("delegated", "portable", "integer")
    found: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for node in program.graph.nodes:
        if node.op != "call_function" or "executorch_call_delegate" in str(node.target):
            continue
        name = _name(node.target)
        if name != "getitem":
            found["portable"][name] += 1
    for lowered in _lowered(program.graph_module):
        for node in lowered.original_module.graph.nodes:
            if node.op != "call_function":
                continue
            name = _name(node.target)
            if name not in ("getitem", *_QUANTIZERS):
                found["delegated"][name] += 1
            if name in PRODUCTS and _quantized(node):
                found["integer"][name] += 1
    return {who: dict(counts.most_common()) for who, counts in found.items()}


def _quantized(product: Any) -> bool:
    """Whether both factors of a product, a node of a graph, come out of dequantizers."""
    made = [arg for arg in product.args if getattr(arg, "op", "") == "call_function"]
    return sum(_name(arg.target) in _QUANTIZERS for arg in made) >= _FACTORS


def save_operators(folder: Path, counts: dict[str, dict[str, int]]) -> None:
    """Keep the counts beside the program: a runtime cannot tell them any more."""
    write_json(folder / OPERATORS, counts)


def load_operators(folder: Path) -> dict[str, dict[str, int]]:
    """The counts that stand beside a program."""
    import json

    found: dict[str, dict[str, int]] = json.loads(read_limited(folder / OPERATORS))
    return found


def open_method(path: Path, threads: int) -> Any:
    """The method ``forward`` of a program, with XNNPACK's threads set.

    Raises:
        UnsupportedError: ExecuTorch cannot load it, or was built without XNNPACK.
    """
    import torch
    from executorch.runtime import Runtime

    torch.set_num_threads(threads)  # XNNPACK takes its pool of threads from here
    runtime = Runtime.get()
    if XNNPACK not in runtime.backend_registry.registered_backend_names:
        raise UnsupportedError("this build of ExecuTorch has no XNNPACK")
    try:
        method = runtime.load_program(path).load_method("forward")
    except RuntimeError as error:
        raise UnsupportedError(f"ExecuTorch cannot load {path.name}: {error}") from error
    if method is None:
        raise UnsupportedError(f"{path.name} has no method forward")
    return method


def run_sample(method: Any, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
    """Outputs of one sample, (1, ...) each."""
    import torch

    outputs = method.execute([torch.from_numpy(np.ascontiguousarray(a)) for a in arrays])
    return [output.numpy().copy() for output in outputs]


def _name(target: object) -> str:
    """``convolution`` of ``aten.convolution.default``."""
    text = str(getattr(target, "__name__", target))
    parts = [part for part in text.replace("::", ".").split(".") if part]
    spaces = ("aten", "default", "dim_order_ops", "quantized_decomposed")
    known = [part for part in parts if part not in spaces]
    return known[0] if known else text


def _lowered(module: Any) -> list[Any]:
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    return [lowered for _, lowered, _ in get_lowered_submodules(module)]
