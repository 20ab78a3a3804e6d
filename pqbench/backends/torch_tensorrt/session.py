"""A network whose parts are TensorRT engines, fed as PyTorch's own session feeds a network."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.backends.fixed_sizes import run_other_size
from pqbench.backends.torch.options import PRECISIONS
from pqbench.backends.torch.session import TorchSession
from pqbench.backends.torch_tensorrt.api import compile_network, load_library
from pqbench.backends.torch_tensorrt.graph import Split, read_split
from pqbench.core.backend import Placement

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pqbench.backends.torch.options import TorchOptions
    from pqbench.core.artifact import Artifact


class Compiled:
    """One compiled module for each batch size."""

    def __init__(self, modules: Mapping[int, Any]) -> None:
        self.modules = dict(modules)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """What the module of this batch size gives."""
        return self.modules[len(inputs[0])](*inputs)


class TorchTensorrtSession(TorchSession):
    """Copies, memory, profile and parity are :class:`TorchSession`'s.

    Args:
        backend: PyTorch's settings.
        options: Settings of ``torch_tensorrt.dynamo.compile``.
        folder: Where the compiler keeps what it found out about tactics.
        artifact: The model.
        network: In eval mode, on its device, in its precision.
        batch_sizes: Those that are compiled, in ascending order.
        load_s: Seconds for making the network.

    Attributes:
        compile_s: Seconds for exporting the network and building its engines, at all batch sizes
            together.
    """

    def __init__(
        self,
        backend: TorchOptions,
        options: Mapping[str, Any],
        folder: Path,
        artifact: Artifact,
        network: nn.Module,
        batch_sizes: Sequence[int],
        load_s: float,
    ) -> None:
        self._options = options
        self._folder = folder
        super().__init__(backend, artifact, network, batch_sizes, load_s)

    def _prepare(self, network: nn.Module, batch_sizes: Sequence[int]) -> None:
        import torch

        backend = self._backend
        trt = load_library()
        folder = self._folder
        cache = folder / "timing_cache.bin"
        options = {**self._options, "timing_cache_path": str(cache)}
        known = cache.is_file()
        started = time.perf_counter()
        modules = {}
        for size in batch_sizes:
            with torch.no_grad():
                inputs = self._tensors(self._zeros(size))
            modules[size] = compile_network(trt, network, inputs, options, folder)
        self.compile_s = time.perf_counter() - started
        engine_class = trt.dynamo.runtime.TorchTensorRTModule
        splits = {size: read_split(module, engine_class) for size, module in modules.items()}
        asked = PRECISIONS[backend.precision]
        for split in splits.values():
            split.check(asked, options["require_full_compilation"], backend.amp)
        self._split: Split = splits[self._size]
        self._sizes = tuple(batch_sizes)
        self._network = Compiled(modules)
        found = [split.engine_bytes for split in splits.values()]
        self._details |= {
            "torch_tensorrt": str(trt.__version__),
            "engines": {size: split.engines for size, split in splits.items()},
            "engine_bytes": None if None in found else sum(n for n in found if n is not None),
            "min_block_size": options["min_block_size"],
            "timing_cache_found": known,
        }
        self._check_parity(network)

    def _computed(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        """Engines have their types: PyTorch's autocast is for the network that they came from."""
        if isinstance(self._network, Compiled):
            return self._network(*tensors)
        return super()._computed(tensors)

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """One inference; both copies are part of it. See ``TorchSession``.

        A batch of a size that was not compiled (the last of a split) is filled up to the next
        larger size, or cut into pieces of the largest.
        """
        if len(batch[self._names[0]]) not in self._sizes:
            return run_other_size(self.run, batch, self._sizes)
        return super().run(batch)

    def device_call(self, batch: Mapping[str, npt.NDArray[Any]]) -> Callable[[], object] | None:
        """The engines alone; None for a batch size that was not compiled."""
        if len(batch[self._names[0]]) not in self._sizes:
            return None
        return super().device_call(batch)

    def placement(self) -> Placement:
        """Layers of the engines, and operators that stay in PyTorch, at the smallest batch size.

        Both are read from the compiled module; loading it has refused a network of which TensorRT
        took nothing.
        """
        import torch

        backend, split = self._backend, self._split
        products = split.products
        left = split.torch_products
        asked = PRECISIONS[backend.precision]
        engines = Counter(kind for kind, _ in split.layers)
        floats = Counter({f"{name} in PyTorch, {asked}": n for name, n in left.items()})
        floats.update(f"{'+'.join(sorted(k))} in TensorRT" for k in products if "int8" not in k)
        return Placement(
            nodes={
                "TensorRT": split.names,
                **({"PyTorch": split.operators.total()} if split.operators else {}),
            },
            precision="tf32" if backend.tf32 and asked == "f32" else asked,
            quantizable=len(products) + sum(left.values()),
            integer=sum("int8" in kinds for kinds in products),
            float_reasons=dict(floats.most_common()),
            kernels={
                **{f"TensorRT {kind}": n for kind, n in engines.most_common()},
                **{f"PyTorch {name}": n for name, n in split.operators.most_common()},
            },
            threads=torch.get_num_threads(),
            details=self._details,
        )
