"""Training in reduced precision, and shared by several devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_resumed_training import Killed, killed_in, stop
from torch import nn

from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.training import fit as module
from pqbench.training.batches import Batches
from pqbench.training.fit import fit
from pqbench.training.loop import Learner
from pqbench.training.ranks import Rank, find_rank
from pqbench.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=2, batch_size=40, train_size=24, learning_rate=0.02)
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def network() -> nn.Module:
    """Without BatchNorm and dropout, whose results depend on how a batch is shared."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    with torch.no_grad():
        made[0].weight[::2] = 0
    return made


def test_settings_refuse_unknown_precision_and_devices() -> None:
    with pytest.raises(ConfigError, match="precision 'fp8'"):
        TrainingSettings(precision="fp8")
    for devices in (0, "all"):
        with pytest.raises(ConfigError, match="devices must be"):
            TrainingSettings(devices=devices)


@NO_GPU
def test_fit_refuses_what_the_machine_lacks(split: PreparedSplit) -> None:
    with pytest.raises(UnsupportedError, match="16-mixed needs a CUDA GPU") as caught:
        fit(network(), split, replace(SETTINGS, precision="16-mixed"))
    assert "bf16-mixed" in caught.value.hint
    with pytest.raises(UnsupportedError, match="needs 2 CUDA GPUs, PyTorch finds 0"):
        fit(network(), split, replace(SETTINGS, devices=2))
    assert find_rank(replace(SETTINGS, devices="auto")) == Rank("cpu", 1)


def test_rank_takes_the_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert find_rank(SETTINGS) == Rank("gpu", 1)
    assert find_rank(replace(SETTINGS, devices="auto")) == Rank("gpu", 4)
    assert find_rank(replace(SETTINGS, devices=2, precision="16-mixed")) == Rank("gpu", 2)
    with pytest.raises(UnsupportedError, match="batch_size=40 cannot be shared by 3"):
        find_rank(replace(SETTINGS, devices=3))


def test_fit_in_bfloat16_computes_otherwise_and_keeps_float32(split: PreparedSplit) -> None:
    exact, rounded = network(), network()
    expected = fit(exact, split, SETTINGS)
    report = fit(rounded, split, replace(SETTINGS, precision="bf16-mixed"))
    assert report.loss == pytest.approx(expected.loss, rel=0.05)
    assert report.loss != expected.loss
    assert {p.dtype for p in rounded.parameters()} == {torch.float32}


def test_batches_of_all_ranks_are_the_whole_batch(split: PreparedSplit) -> None:
    import numpy as np

    indices = np.arange(101, dtype=np.int64)  # a rest of 21, of which 20 can be shared
    whole = Batches(split, indices, 40, 24, "dihedral", seed=3)
    shares = [replace(whole, rank=rank, world=2) for rank in (0, 1)]
    assert shares[0].sizes() == shares[1].sizes() == [40, 40, 20]
    for (inputs, labels), *parts in zip(whole, *shares, strict=True):
        for rank, ((part,), part_labels) in enumerate(parts):
            assert torch.equal(part_labels, labels[rank:40:2][: len(part_labels)])
            assert torch.equal(part, inputs[0][rank:40:2][: len(part)])


@pytest.mark.parametrize("resumed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_train_as_one(
    resumed: bool, split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, validation_share=0.2, patience=2, batch_size=32)
    alone, together = network(), network()
    expected = fit(alone, split, settings)
    if resumed:  # its first epoch on one device
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Learner, "training_step", killed_in(1, stop))
            fit(network(), split, settings, resume=tmp_path)
    monkeypatch.setattr(module, "find_rank", lambda settings: Rank("cpu", 2))
    report = fit(together, split, settings, resume=tmp_path)
    assert (report.devices, report.resumed_epochs) == (2, int(resumed))
    assert report.steps == expected.steps == 6
    assert report.images == expected.images == 192
    assert report.loss == pytest.approx(expected.loss, rel=1e-4)
    assert report.validation_loss == pytest.approx(expected.validation_loss, rel=1e-4)
    for mine, theirs in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    assert not together[0].weight[::2].any()
    assert not torch.distributed.is_initialized()


@pytest.mark.gpu
@TWO_GPUS
def test_two_gpus_train_as_one(split: PreparedSplit) -> None:
    alone, together = network(), network()
    expected = fit(alone, split, SETTINGS)
    report = fit(together, split, replace(SETTINGS, devices=2))
    assert (report.devices, report.device) == (2, "cuda")
    assert report.images == expected.images
    assert report.loss == pytest.approx(expected.loss, rel=1e-3)


def test_network_that_cannot_be_sent_is_refused(
    split: PreparedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = network()
    made.register_forward_hook(lambda *args: None)
    monkeypatch.setattr(module, "find_rank", lambda settings: Rank("cpu", 2))
    with pytest.raises(UnsupportedError, match="cannot be handed to a second process") as caught:
        fit(made, split, SETTINGS)
    assert caught.value.hint == "use devices=1"
