"""TorchScript and ``torch.compile``: a network made faster ahead of the first call that counts."""

from __future__ import annotations

import os
import shlex
import subprocess
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.backends.support import first_line
from pqbench.core.errors import UnavailableError, UnsupportedError

if TYPE_CHECKING:
    import torch
    from torch import nn

Inputs = tuple["torch.Tensor", ...]
Network = Callable[..., Any]
# TorchScript's executor watches the first calls of each shape and optimizes the next ones.
SCRIPT_CALLS = 3


def script(network: nn.Module, examples: Sequence[Inputs]) -> Network:
    """Trace and freeze a network, and run it at every batch size until it is optimized.

    TorchScript is deprecated upstream in favour of ``torch.compile`` and ``torch.export``; it is
    here because many deployments still use it.

    Args:
        network: In eval mode, on its device.
        examples: Inputs at each batch size.

    Raises:
        UnsupportedError: It cannot be traced, or tracing fixed a batch size or a branch.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated; and what tracing cannot follow
        try:
            jit: Any = torch.jit
            traced = jit.freeze(jit.trace(network, examples[0], check_trace=False))
            for example in examples:
                for _ in range(SCRIPT_CALLS):
                    traced(*example)
        except RuntimeError as error:
            raise UnsupportedError(
                f"TorchScript cannot trace this network: {first_line(error)}",
                hint="use backend=torch or backend=torch_compile",
            ) from error
        _check_other_size(network, traced, examples)
    result: Network = traced
    return result


def _check_other_size(network: nn.Module, traced: Network, examples: Sequence[Inputs]) -> None:
    """A trace records one run: whatever depended on the batch size is a constant in it."""
    import torch

    from pqbench.nets.layers import flatten_outputs

    size = len(examples[0][0])
    other = tuple(torch.cat([t[:1]] * (size + 1)) for t in examples[0])
    ours, theirs = flatten_outputs(traced(*other)), flatten_outputs(network(*other))
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            raise UnsupportedError(
                f"TorchScript's trace at batch size {size} gives shape {tuple(a.shape)} instead of "
                f"{tuple(b.shape)} at batch size {size + 1}",
                hint="the network's forward turns the batch size into a constant",
            )


def compile_network(
    network: nn.Module,
    examples: Sequence[Inputs],
    mode: str,
    fullgraph: bool,
    cache: bool,
    freezing: bool,
) -> tuple[Network, int]:
    """Compile a network for every batch size.

    Args:
        network: In eval mode, on its device.
        examples: Inputs at each batch size.
        mode: ``torch.compile``'s: ``default``, ``reduce-overhead`` or ``max-autotune``.
        fullgraph: Fail where a part cannot be compiled, instead of running that part eagerly.
        cache: Take kernels that an earlier process compiled.
        freezing: Take the weights for constants: fold them, and store them as the kernels want.

    Returns:
        The compiled network, and how many graphs were found: in the cache of an earlier process,
        or in this process, which has compiled the same network before.

    Raises:
        UnsupportedError: It cannot be compiled.
    """
    import torch
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor
    from torch._dynamo.utils import counters

    # One graph per batch size; beyond the limit PyTorch would silently run eagerly.
    dynamo.recompile_limit = max(dynamo.recompile_limit, len(examples) + 1)
    dynamo.fail_on_recompile_limit_hit = True
    inductor.force_disable_caches = not cache
    inductor.freezing = freezing
    on_cpu = all(t.device.type == "cpu" for t in examples[0])
    if on_cpu:
        inductor.compile_threads = 1  # else idle compiler processes stay and count as memory
    kernels = _kernels()
    hits = counters["inductor"]["fxgraph_cache_hit"]
    graphs = counters["stats"]["unique_graphs"]
    compiled: Any = torch.compile(network, dynamic=False, fullgraph=fullgraph, mode=mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for example in examples:
                compiled(*example)
                compiled(*example)  # CUDA graphs are captured at the second call
    except RuntimeError as error:
        raise UnsupportedError(
            f"torch.compile cannot compile this network: {first_line(error)}",
            hint="backend.fullgraph=false runs what cannot be compiled eagerly",
        ) from error
    if cache and freezing and on_cpu and kernels and _kernels() == kernels:
        return compiled, len(examples)  # frozen graphs are made anew, of kernels that were there
    known = max(len(examples) - (counters["stats"]["unique_graphs"] - graphs), 0)
    return compiled, counters["inductor"]["fxgraph_cache_hit"] - hits + known


def _kernels() -> set[str]:
    """The C++ kernels in PyTorch's cache folder; those of a GPU are other files."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return {str(path) for path in Path(cache_dir()).rglob("*.so")}


def check_compiler(device: str) -> None:
    """Look whether ``torch.compile`` finds what it generates code with.

    Raises:
        UnavailableError: No C++ compiler for the CPU, or no Triton for CUDA.
    """
    import importlib.util

    if device != "cpu" and importlib.util.find_spec("triton") is None:
        raise UnavailableError("torch.compile needs Triton for CUDA", hint="pip install triton")
    if _answers(os.environ.get("CXX") or "g++"):
        return  # what torch would take first; to import all that can compile takes 2 s
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise UnavailableError(
            f"torch.compile finds no C++ compiler: {first_line(error)}",
            hint="install g++ or clang++, or name one in the variable CXX",
        ) from error


def _answers(compiler: str) -> bool:
    """Whether a compiler says its version, as torch asks it."""
    try:
        subprocess.run([*shlex.split(compiler), "--version"], check=True, capture_output=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return True
