"""A launcher of Hydra that measures nothing: each job leaves the record it is told to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf


class RecordLauncher(Launcher):
    """Notes what it is given, and writes records.

    Attributes:
        launched: Overrides of every job so far.
    """

    launched: list[list[str]]

    def setup(self, **kwargs: Any) -> None: ...

    @abstractmethod
    def save(self, number: int, overrides: Sequence[str]) -> Path:
        """Write a job's record; gives its folder."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        returns = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            self.launched.append(list(overrides))
            folder = self.save(number, overrides)
            cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
            returns.append(JobReturn(hydra_cfg=cfg, status=JobStatus.COMPLETED))
        return returns
