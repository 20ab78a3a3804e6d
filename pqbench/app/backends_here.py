"""Which backends can run on this machine, and exactly why the others cannot."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pqbench.core.backend import Availability, Backend
from pqbench.core.errors import PqbenchError
from pqbench.core.instantiate import make
from pqbench.experiment import config as schema

BY_NAME_ONLY = (
    "torchscript",
    "torch_compile",
    "torchscript_cuda",
    "torch_cuda_fp16",
    "torchscript_cuda_fp16",
    "tensorrt_fp16",
)


def backends(conf: Path) -> dict[str, Availability]:
    """Availability of each ``conf/backend/*.yaml``, by name, in alphabetical order."""
    schema.register()
    found: dict[str, Availability] = {}
    # Whatever a runtime prints about itself while it is asked must not be among the answers.
    with (
        initialize_config_dir(str(conf), version_base="1.3"),
        contextlib.redirect_stdout(sys.stderr),
    ):
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
    needs minutes for each model, and half precision is a choice.
    """
    found = backends(conf).items()
    return [name for name, here in found if here.available and name not in BY_NAME_ONLY]


def print_backends(conf: Path) -> None:
    """Print the table of ``python -m pqbench --backends``."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("Backend", "Here", "Device", "Versions", "Why not", "What to do")
    for name, found in backends(conf).items():
        table.add_row(
            name,
            "yes" if found.available else "no",
            found.device,
            ", ".join(f"{k} {v}" for k, v in found.versions.items()),
            escape(found.reason),
            escape(found.hint),
        )
    Console().print(table)
