"""A training that is killed half way goes on where it stopped, and ends as if nothing had been."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pqbench.cache import Cache
from pqbench.core.errors import OutOfMemoryFailure
from pqbench.core.split import PreparedSplit
from pqbench.training.fit import fit
from pqbench.training.loop import Learner
from pqbench.training.settings import FitReport, TrainingSettings
from pqbench.workers.stage import StageRunner
from pqbench.workers.stage_spec import StageSpec

HERE = Path(__file__).stem
SETTINGS = TrainingSettings(epochs=4, batch_size=40, train_size=24, learning_rate=0.02)
WATCHED = replace(SETTINGS, validation_share=0.2, patience=3)


def network() -> nn.Module:
    """With BatchNorm, dropout and pruned weights: all that has a state besides the weights."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    with torch.no_grad():
        made[0].weight[::2] = 0
    return made


class Killed(Exception):
    """In place of the signal."""


def killed_in(epoch: int, how: Any) -> Any:
    """A training step that is killed in the middle of an epoch."""
    step = Learner.training_step

    def training_step(self: Learner, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == epoch and batch_idx == 1:
            how()
        return step(self, batch, batch_idx)

    return training_step


def stop() -> None:
    raise Killed


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def comparable(report: FitReport) -> FitReport:
    return replace(report, seconds=0.0, epoch_seconds=(), resumed_epochs=0)


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, replace(WATCHED, ema=0.8), replace(SETTINGS, max_steps=11, ema=0.8)],
    ids=["plain", "watched", "max_steps"],
)
def test_resumed_training_ends_with_the_same_bits(
    settings: TrainingSettings, split: PreparedSplit, tmp_path: Path
) -> None:
    undisturbed = network()
    expected = fit(undisturbed, split, settings)
    folder = tmp_path / "unfinished"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Learner, "training_step", killed_in(2, stop))
        fit(network(), split, settings, resume=folder)
    assert len(list(folder.glob("*.ckpt"))) == 1
    resumed = network()
    report = fit(resumed, split, settings, resume=folder)
    assert report.resumed_epochs == 2
    assert comparable(report) == comparable(expected)
    assert len(report.epoch_seconds) == 4
    assert_equal(resumed, undisturbed)
    again = network()  # killed after the last epoch: nothing is left to train
    report = fit(again, split, settings, resume=folder)
    assert report.resumed_epochs == 4
    assert comparable(report) == comparable(expected)
    assert_equal(again, undisturbed)


def test_resumed_training_that_was_out_of_patience_stays_so(
    split: PreparedSplit, tmp_path: Path
) -> None:
    settings = replace(WATCHED, epochs=30, patience=1, learning_rate=0.1)
    first, second = network(), network()
    expected = fit(first, split, settings, resume=tmp_path)
    assert expected.epochs < 30
    report = fit(second, split, settings, resume=tmp_path)
    assert report.resumed_epochs == report.epochs == expected.epochs
    assert_equal(first, second)


def test_resumed_training_that_was_out_of_patience_ends_at_the_models_own_size(
    split: PreparedSplit, tmp_path: Path
) -> None:
    settings = replace(WATCHED, epochs=30, patience=1, learning_rate=0.1, full_size_epochs=2)
    undisturbed, resumed = network(), network()
    expected = fit(undisturbed, split, settings)
    assert expected.epochs < 30
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Learner, "training_step", killed_in(expected.epochs - 1, stop))
        fit(network(), split, settings, resume=tmp_path)
    report = fit(resumed, split, settings, resume=tmp_path)
    assert report.resumed_epochs == expected.epochs - 1
    assert comparable(report) == comparable(expected)
    assert_equal(resumed, undisturbed)


def test_training_begins_anew_where_the_checkpoint_is_damaged(
    split: PreparedSplit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(SETTINGS, epochs=1)
    (tmp_path / "epoch=000000.ckpt").write_bytes(b"PK half of it")
    report = fit(network(), split, settings, resume=tmp_path)
    assert report.resumed_epochs == 0
    assert "damaged checkpoint" in caplog.text


def train_in_stage(workdir: Path, split: str, resume: str) -> dict[str, Any]:
    """A stage; killed in its third epoch unless it goes on with what it finds."""
    if not Path(resume).exists():
        Learner.training_step = killed_in(2, lambda: os.kill(os.getpid(), signal.SIGKILL))
    trained = network()
    report = fit(trained, PreparedSplit.load(split), SETTINGS, resume=Path(resume))
    torch.save(trained.state_dict(), workdir / "weights.pt")
    return {"resumed_epochs": report.resumed_epochs}


def test_killed_stage_goes_on_from_its_last_epoch(split: PreparedSplit, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    runner = StageRunner(cache, tmp_path / "work", tmp_path / "logs")
    arguments = {"split": str(split.folder)}
    spec = StageSpec("train", f"{HERE}:train_in_stage", arguments, resumable=True)
    with pytest.raises(OutOfMemoryFailure, match="SIGKILL"):
        runner.run(spec)
    assert len(list(cache.unfinished.glob("*/*.ckpt"))) == 1
    result = runner.run(spec)
    assert result.value == {"resumed_epochs": 2}
    undisturbed, resumed = network(), network()
    fit(undisturbed, split, SETTINGS)
    resumed.load_state_dict(torch.load(result.folder / "weights.pt", weights_only=True))
    assert_equal(resumed, undisturbed)
