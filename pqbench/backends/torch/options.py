"""How a network is run in PyTorch: the settings of the backend, which its sessions read."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pqbench.backends.support import one_of, thread_count
from pqbench.core.backend import Backend
from pqbench.core.errors import ConfigError
from pqbench.machine.cuda_driver import parse_device
from pqbench.machine.heap import can_keep_freed_memory

if TYPE_CHECKING:
    import torch

MODES = ("eager", "script", "compile")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class TorchOptions(Backend):
    """The settings of :class:`pqbench.backends.torch.backend.TorchBackend`, described there.

    They are apart from the backend because its sessions read them too.
    """

    def __init__(
        self,
        threads: int | None = None,
        precision: str = "fp32",
        channels_last: bool = False,
        mode: str = "eager",
        device: str = "cpu",
        amp: bool = True,
        tf32: bool = False,
        compile_mode: str = "default",
        fullgraph: bool = True,
        compile_cache: bool = True,
        freezing: bool = True,
        keep_memory: bool | None = None,
    ) -> None:
        self.threads = thread_count(threads)
        self.precision = one_of("precision", precision, tuple(PRECISIONS))
        self.channels_last = channels_last
        self.mode = one_of("mode", mode, MODES)
        self.runs_to_load = mode == "script"  # until its executor has optimized each batch size
        self.device = device if device == "cpu" else f"cuda:{parse_device(device)}"
        self.amp = amp
        self.tf32 = tf32
        self.compile_mode = one_of("compile_mode", compile_mode, COMPILE_MODES)
        self.fullgraph = fullgraph
        self.compile_cache = compile_cache
        self.freezing = freezing
        can_keep = self.device == "cpu" and can_keep_freed_memory()
        self.keep_memory = can_keep if keep_memory is None else keep_memory
        if self.keep_memory and not can_keep:
            raise ConfigError(
                f"backend.keep_memory=true does nothing on {self.device}"
                if self.device != "cpu"
                else "backend.keep_memory=true needs glibc, which is not this system's C library",
                hint="set backend.keep_memory=null: memory is kept where it can be",
            )
        if mode == "script" and precision != "fp32" and amp:
            raise ConfigError(
                f"TorchScript with precision={precision} by autocast is not possible: a frozen "
                "network is not cast",
                hint="set backend.amp=false: the whole network in that precision",
            )

    def dtype(self) -> torch.dtype:
        """The element type of products."""
        import torch

        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return kinds[self.precision]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast in the precision asked, or nothing."""
        import torch

        if self.precision == "fp32" or not self.amp:
            return contextlib.nullcontext()
        return torch.autocast(self.device.partition(":")[0], self.dtype())
