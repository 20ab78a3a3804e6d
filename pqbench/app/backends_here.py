"""Which backends can run on this machine, and exactly why the others cannot."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pqbench.app.composition import sweep_loader
from pqbench.core.backend import Availability, Backend
from pqbench.core.errors import PqbenchError
from pqbench.core.instantiate import make
from pqbench.experiment import config as schema
from pqbench.machine.cpu import cpu_has_bf16

BY_NAME_ONLY = (
    "torch_plain",
    "torchscript",
    "torch_compile",
    "torchscript_cuda",
    "torch_cuda_amp",
    "torch_cuda_fp16",
    "torchscript_cuda_fp16",
    "tensorrt_fp16",
    "torch_tensorrt_fp16",
    "torch_tensorrt_int8",
)
BF16 = ("torch_bf16", "openvino_bf16", "ncnn_bf16")


def backends(conf: Path) -> dict[str, Availability]:
    """Availability of each ``conf/backend/*.yaml``, by name, in alphabetical order."""
    schema.register()
    found: dict[str, Availability] = {}
    # Whatever a runtime prints about itself while it is asked must not be among the answers.
    with (
        initialize_config_dir(str(conf), version_base="1.3"),
        contextlib.redirect_stdout(sys.stderr),
    ):
        sweep_loader()  # the files that all have in common are read once
        for path in sorted((conf / "backend").glob("*.yaml")):
            try:
                config = compose("config", overrides=[f"backend={path.stem}"])
                node: Any = OmegaConf.to_container(config.backend, resolve=True)
                found[path.stem] = make(node, path.stem, Backend).availability()
            except (PqbenchError, HydraException) as error:
                found[path.stem] = Availability(False, "", {}, str(error))
    return found


def available_backends(conf: Path) -> list[str]:
    """Names of the backends that a sweep takes by default: those that can run here.

    Without the variants that are asked for by name: TorchScript is deprecated, ``torch.compile``
    needs minutes for each model, and half precision is a choice. BF16, which needs no calibration,
    is among them where the CPU has units for it: elsewhere it is slower than float32.
    """
    left_out = BY_NAME_ONLY if cpu_has_bf16() else (*BY_NAME_ONLY, *BF16)
    found = backends(conf).items()
    return [name for name, here in found if here.available and name not in left_out]


def print_backends(conf: Path) -> None:
    """Print the table of ``python -m pqbench --backends``."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    found = backends(conf)
    console = Console()
    table = Table("Backend", "Here", "Device", "Versions")
    for name, here in found.items():
        versions = ", ".join(f"{k} {v}" for k, v in here.versions.items())
        # what is in brackets is a name, no markup; a name is never cut
        cells = (name, "yes" if here.available else "no", here.device, versions)
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    console.print(table)
    causes: dict[tuple[str, str], list[str]] = {}
    for name, here in found.items():
        if not here.available:
            causes.setdefault((here.reason, here.hint), []).append(name)
    for (reason, hint), names in causes.items():
        console.print(Text(", ".join(names), style="bold"))
        console.print(Padding(Text(f"why not: {reason}"), (0, 0, 0, 2)))
        if hint:
            console.print(Padding(Text(f"to do: {hint}"), (0, 0, 0, 2)))
