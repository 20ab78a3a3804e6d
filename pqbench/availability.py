"""Which backends can run on this machine, and exactly why the others cannot."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from pqbench.backends.base import Availability
from pqbench.schema import make


def backends(conf: Path) -> dict[str, Availability]:
    """Availability of each ``conf/backend/*.yaml``, by name, in alphabetical order."""
    found: dict[str, Availability] = {}
    for path in sorted((conf / "backend").glob("*.yaml")):
        node = OmegaConf.create({"backend": OmegaConf.load(path), "threads": 1})
        options = OmegaConf.to_container(node.backend, resolve=True)
        assert isinstance(options, dict)
        found[path.stem] = make({str(k): v for k, v in options.items()}, path.stem).availability()
    return found


def available_backends(conf: Path) -> list[str]:
    """Names of the backends that can run here."""
    return [name for name, found in backends(conf).items() if found.available]


def print_backends(conf: Path) -> None:
    """Print the table of ``python -m pqbench --backends``."""
    from rich.console import Console
    from rich.table import Table

    table = Table("Backend", "Here", "Device", "Versions", "Why not, and what to do")
    for name, found in backends(conf).items():
        table.add_row(
            name,
            "yes" if found.available else "no",
            found.device,
            ", ".join(f"{k} {v}" for k, v in found.versions.items()),
            "" if found.available else f"{found.reason}. {found.hint}",
        )
    Console().print(table)
