"""The folder of a run is its own: a new one for each, or one that the user gave, under a lock."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import DictConfig

from pqbench.core.errors import ConfigError
from pqbench.core.ownership import claim

LOCK = ".pqbench.lock"
_BY_TIME = re.compile(r".*\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
_BY_HYDRA = (".hydra", "pqbench.log", "report")


def is_given(config: DictConfig, key: str) -> bool:
    """Whether the user chose a folder; else it is named after the second, which others may share.

    Args:
        config: The composed configuration with Hydra's own.
        key: ``hydra.run.dir`` or ``hydra.sweep.dir``.
    """
    overrides = [*config.hydra.overrides.hydra, *config.hydra.overrides.task]
    if any(o.lstrip("+").startswith(f"{key}=") for o in overrides):
        return True
    folder = config.hydra.run.dir if key == "hydra.run.dir" else config.hydra.sweep.dir
    return not _BY_TIME.fullmatch(Path(folder).name)


def new_folder(folder: Path) -> Path:
    """Make a folder that was not there: this one, or with a number where another run has it.

    Raises:
        OSError: It cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    number, free = 1, folder
    while True:
        try:
            free.mkdir()
            return free
        except FileExistsError:
            number += 1
            free = folder.with_name(f"{folder.name}_{number}")


class RunFolder:
    """The folder of one single run, which no other process uses meanwhile.

    Args:
        folder: Where it is to be.
        given: The user chose it; else a new one is made.

    Attributes:
        folder: Where it is.

    Raises:
        ConfigError: Another run is in it, or a file of the user's is in the way.
        OSError: It cannot be made.
    """

    def __init__(self, folder: Path, given: bool) -> None:
        from filelock import FileLock, Timeout  # --help needs neither

        from pqbench.experiment.run import RESULTS

        self.folder = folder if given else new_folder(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / LOCK, timeout=0)
        hint = "set another hydra.run.dir"
        try:
            self._lock.acquire()
        except Timeout:
            message = f"another process runs an experiment in {self.folder}"
            raise ConfigError(message, hint=f"wait for it, or {hint}") from None
        try:
            claim(self.folder, (*RESULTS, *_BY_HYDRA), f"{hint}, or move it away")
        except ConfigError:
            self.let_go()
            raise

    def let_go(self) -> None:
        """Another run may have the folder now."""
        (self.folder / LOCK).unlink(missing_ok=True)  # filelock sees an unlinked file
        self._lock.release()
