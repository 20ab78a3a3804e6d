"""Training real networks on real images, briefly."""

from __future__ import annotations

import itertools
import os
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared_images import by_brightness
from torch import nn

from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, PqbenchError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.nets.checkpoint import load_network
from pqbench.training.average import Average
from pqbench.training.finetune import Finetune
from pqbench.training.fit import fit, fit_artifact
from pqbench.training.settings import TrainingSettings

FAST = TrainingSettings(epochs=1, batch_size=16, train_size=32, max_steps=3)


class Tiny(nn.Module):
    """Two convolutions: trains in a second."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2)
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu().mean((2, 3)))


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


@dataclass(frozen=True)
class Data:
    """What a step is given."""

    train: PreparedSplit
    seed: int = 0
    threads: int = 1
    teacher: Artifact | None = None
    resume: Path | None = None


def _accuracy(network: nn.Module, split: PreparedSplit) -> float:
    with torch.no_grad():
        logits = network(torch.from_numpy(split.feed(slice(0, len(split)))["input"]))
    return float((logits.argmax(1).numpy() == split.labels()).mean())


def test_fit_learns(tiny: Tiny, split: PreparedSplit, tmp_path: Path) -> None:
    train = by_brightness(split, tmp_path)
    settings = TrainingSettings(epochs=8, batch_size=16, learning_rate=0.02, augment="dihedral")
    report = fit(tiny, train, settings)
    assert _accuracy(tiny, train) > 0.85
    assert report.loss[-1] < 0.6 * report.loss[0]
    assert report.epochs == len(report.loss) == len(report.epoch_seconds) == 8
    assert report.steps == 8 * 8
    assert report.images == 8 * 120
    assert report.kept_epoch == 7
    assert not tiny.training
    assert next(tiny.parameters()).device.type == "cpu"


def test_fit_is_deterministic(split: PreparedSplit) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        network = Tiny()
        fit(network, split, replace(FAST, seed=seed))
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    first = weights(0)
    torch.rand(7)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_fit_leaves_no_trace(
    tiny: Tiny,
    split: PreparedSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    monkeypatch.chdir(tmp_path)
    state = torch.get_rng_state()
    environment = dict(os.environ)
    fit(tiny, split, FAST)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert not [w for w in recwarn if "lightning" in w.filename]
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == 1
    assert environment == dict(os.environ)


def test_fit_shows_its_progress_on_standard_error_only(
    tiny: Tiny, split: PreparedSplit, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(tiny, split, FAST, progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "training" in captured.err


def test_fit_stops_early_and_keeps_the_best(tiny: Tiny, split: PreparedSplit) -> None:
    settings = TrainingSettings(
        epochs=30, batch_size=32, learning_rate=0.05, patience=1, validation_share=0.2
    )
    report = fit(tiny, split, settings)
    assert report.train_images == 96
    assert 2 <= report.epochs < 30
    assert report.kept_epoch == int(np.argmin(report.validation_loss))
    assert len(report.validation_loss) == report.epochs


def test_average_weighs_recent_steps_and_trades_places_with_the_network() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average = Average(network, share=0.5)
    for value in range(1, 31):  # from the tenth step on half of the average is kept
        with torch.no_grad():
            network.weight.fill_(float(value))
        average.update()
    expected = 0.0
    for step, value in enumerate(range(1, 31), 1):
        keep = min(0.5, step / (step + 10))
        expected = keep * expected + (1 - keep) * value
    assert average.weights["weight"].item() == pytest.approx(expected)
    average.swap()
    assert network.weight.item() == pytest.approx(expected)
    average.swap()
    assert network.weight.item() == 30.0


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_fit_keeps_the_average_and_zeros_stay_zero(
    share: float, tiny: Tiny, split: PreparedSplit
) -> None:
    """Weights that flew far in the last steps: the average is behind them, and still pruned."""
    with torch.no_grad():
        tiny.body[0].weight[::2] = 0
    begun = deepcopy(tiny)
    settings = TrainingSettings(epochs=2, batch_size=40, validation_share=share)
    plain, averaged = deepcopy(begun), deepcopy(begun)
    fit(plain, split, settings)
    fit(averaged, split, replace(settings, ema=0.95))
    start, last, mean = (n.head.weight.detach() for n in (begun, plain, averaged))
    assert 0 < float((mean - start).norm()) < float((last - start).norm())
    assert bool((averaged.body[0].weight[::2] == 0).all())


@pytest.mark.parametrize(
    ("step", "epochs", "share", "patience", "ema"),
    [
        (Finetune(), 2, 0.0, None, 0.0),
        (Finetune(budget="default"), 10, 0.0, None, 0.99),
        (Finetune(budget="full"), 60, 0.1, 12, 0.99),
        (Finetune(budget="full", validation_share=0.0, ema=0.0), 60, 0.0, None, 0.0),
        (Finetune(budget="full", epochs=3), 3, 0.1, 12, 0.99),
        (Finetune(budget="full", validation_share=0.2), 60, 0.2, 12, 0.99),
        (Finetune(budget="full", epochs=3, validation_share=0.0), 3, 0.0, None, 0.99),
        (Finetune(budget="default", validation_share=0.2), 10, 0.2, None, 0.99),
        (Finetune(epochs=3, validation_share=0.3, patience=2, ema=0.9), 3, 0.3, 2, 0.9),
    ],
)
def test_finetune_budget_says_what_is_not_said(
    step: Finetune, epochs: int, share: float, patience: int | None, ema: float
) -> None:
    settings = step.settings(seed=0, threads=1)
    assert (settings.epochs, settings.validation_share) == (epochs, share)
    assert (settings.patience, settings.ema) == (patience, ema)


def test_fit_follows_its_teacher(split: PreparedSplit, tiny: Tiny, tmp_path: Path) -> None:
    train = by_brightness(split, tmp_path)
    teacher = Tiny()
    with torch.no_grad():  # a teacher that always says: class 1
        teacher.head.weight.zero_()
        teacher.head.bias.copy_(torch.tensor([-4.0, 4.0]))
    before = [p.clone() for p in teacher.parameters()]
    settings = TrainingSettings(epochs=6, batch_size=16, learning_rate=0.02, teacher_weight=1.0)
    fit(tiny, train, settings, teacher)
    with torch.no_grad():
        logits = tiny(torch.from_numpy(train.feed(slice(0, 64))["input"]))
    assert logits.argmax(1).float().mean() == 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_distillation_is_zero_for_equal_logits_and_scales_gradients() -> None:
    from pqbench.training.loop import distillation

    logits = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]])
    assert distillation(logits, logits, 3.0) == pytest.approx(0, abs=1e-6)
    other = torch.zeros(2, 3)
    p = torch.softmax(logits, 1)
    expected = (p * (p.log() - torch.softmax(other, 1).log())).sum(1).mean()
    assert distillation(other, logits, 1.0) == pytest.approx(float(expected), rel=1e-5)


def test_schedule_warms_up_then_falls() -> None:
    from pqbench.training.loop import schedule

    shares = [schedule(step, 100) for step in range(101)]
    assert shares[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(shares[10:]))
    assert shares[100] == pytest.approx(0.01)
    assert 0 < schedule(0, 1) <= 1


def test_fit_refuses_what_it_cannot_train(split: PreparedSplit, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="data set has 2 classes"):
        fit(Tiny(classes=5), split, FAST)
    for file in split.folder.iterdir():
        os.link(file, tmp_path / file.name)
    (tmp_path / "labels.npy").unlink()
    np.save(tmp_path / "labels.npy", np.zeros((120, 48, 48), np.int64))
    with pytest.raises(UnsupportedError, match=r"at \(.*\) positions"):
        fit(Tiny(), PreparedSplit.load(tmp_path), FAST)


@pytest.mark.parametrize("keep", [True, False])
def test_fit_keeps_pruned_weights_at_zero(tiny: Tiny, split: PreparedSplit, keep: bool) -> None:
    weight = next(p for p in tiny.parameters() if p.ndim > 1)
    with torch.no_grad():
        weight[weight.abs() < weight.abs().median()] = 0
    zeros, before = weight == 0, weight.detach().clone()
    fit(tiny, split, TrainingSettings(epochs=1, batch_size=16, max_steps=3, keep_zeros=keep))
    assert bool((weight[zeros] == 0).all()) is keep
    assert not torch.equal(weight[~zeros], before[~zeros])


def test_fit_that_diverges_says_so(tiny: Tiny, split: PreparedSplit) -> None:
    with torch.no_grad():
        tiny.head.bias.fill_(float("nan"))
    with pytest.raises(PqbenchError, match="diverged"):
        fit(tiny, split, FAST)


@pytest.mark.parametrize("method", ["finetune", "scratch"])
def test_fit_artifact_trains_and_records(
    method: str, tmp_path: Path, resnet: Artifact, split: PreparedSplit
) -> None:
    settings = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "train_size": 32}
    result = fit_artifact(
        resnet, method, "fc", {**settings, "max_steps": 2}, split, tmp_path, seed=3, threads=1
    )
    entry = Artifact.load(tmp_path).lineage[-1]
    assert entry.action == "fit"
    assert entry.config["method"] == method
    assert entry.config["seed"] == 3
    assert entry.details["steps"] == 2
    assert entry.details["batch_norm_images"] == 96
    assert result.content_hash() != resnet.content_hash()
    load_network(result)


def test_fit_artifact_refuses_unknown_words(
    tmp_path: Path, resnet: Artifact, split: PreparedSplit
) -> None:
    with pytest.raises(ConfigError, match="'magic' is unknown"):
        fit_artifact(resnet, "magic", "fc", {}, split, tmp_path, 0, 1)
    with pytest.raises(ConfigError, match="momentum is no setting"):
        fit_artifact(resnet, "scratch", "fc", {"momentum": 1}, split, tmp_path, 0, 1)


@pytest.mark.parametrize("teacher_weight", [0.0, 0.7])
def test_finetune_step_trains_in_a_recipe(
    teacher_weight: float, tmp_path: Path, resnet: Artifact, split: PreparedSplit
) -> None:
    step = Finetune(
        epochs=1, max_steps=2, batch_size=16, train_size=32, teacher_weight=teacher_weight
    )
    result = step.apply(resnet, Data(split, teacher=resnet), tmp_path)
    entry = Artifact.load(tmp_path).lineage[-1]
    assert entry.action == ("distill" if teacher_weight else "finetune")
    assert entry.config == asdict(step)
    assert entry.details["steps"] == 2
    assert entry.details["batch_norm_images"] == 96
    assert result.content_hash() != resnet.content_hash()
    old, new = load_network(resnet), load_network(result)
    assert not torch.equal(old.fc.weight, new.fc.weight)


def test_distill_without_teacher_is_refused(
    tmp_path: Path, resnet: Artifact, split: PreparedSplit
) -> None:
    with pytest.raises(UnsupportedError, match="distill needs the model from before"):
        Finetune(teacher_weight=0.5).apply(resnet, Data(split), tmp_path)


def test_steps_train_at_the_models_own_size_and_refuse_a_larger_one(
    tiny: Tiny, split: PreparedSplit
) -> None:
    seen: list[int] = []
    tiny.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[-1]))
    fit(tiny, split, Finetune(epochs=2, batch_size=60).settings(0, 1))
    assert set(seen) == {48}
    seen.clear()
    fit(tiny, split, Finetune(epochs=2, batch_size=60, train_size=24).settings(0, 1))
    assert seen[1:] == [24, 24, 48, 48]  # the first is the check of the classes
    with pytest.raises(ConfigError, match="larger than the 48 px"):
        fit(tiny, split, Finetune(train_size=128).settings(0, 1))


@pytest.fixture
def sides(tiny: Tiny) -> dict[bool, list[int]]:
    """Sides of the batches that the network is shown, by whether it trains."""
    seen: dict[bool, list[int]] = {True: [], False: []}
    tiny.register_forward_pre_hook(lambda net, x: seen[net.training].append(x[0].shape[-1]))
    return seen


def test_fit_that_ends_at_the_models_own_size_is_watched_at_it(
    tiny: Tiny, split: PreparedSplit, sides: dict[bool, list[int]]
) -> None:
    step = Finetune(epochs=3, batch_size=60, train_size=24, validation_share=0.2)
    fit(tiny, split, step.settings(0, 1))
    assert sides[True] == [24, 24, 24, 24, 48, 48]
    assert set(sides[False]) == {48}
    sides[False].clear()
    fit(tiny, split, replace(step, full_size_epochs=0).settings(0, 1))
    assert set(sides[False][1:]) == {24}  # the first is the check of the classes


@pytest.mark.parametrize(
    ("max_steps", "expected"),
    [(5, [24, 24, 48, 48, 48]), (3, [24, 24, 48]), (2, [24, 24])],
)
def test_fit_of_few_steps_ends_at_the_models_own_size(
    max_steps: int,
    expected: list[int],
    tiny: Tiny,
    split: PreparedSplit,
    sides: dict[bool, list[int]],
) -> None:
    step = Finetune(epochs=10, batch_size=60, train_size=24, max_steps=max_steps)
    fit(tiny, split, step.settings(0, 1))
    assert sides[True] == expected


def test_fit_out_of_patience_ends_at_the_models_own_size(
    tiny: Tiny, split: PreparedSplit, sides: dict[bool, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pqbench.training.loop import Learner, schedule

    rates: list[float] = []
    step = Learner.training_step

    def training_step(self: Learner, batch: object, batch_idx: int) -> torch.Tensor:
        rates.append(self.optimizers().param_groups[0]["lr"])
        return step(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "training_step", training_step)
    settings = TrainingSettings(
        epochs=30,
        batch_size=32,
        learning_rate=0.05,
        train_size=24,
        full_size_epochs=2,
        patience=1,
        validation_share=0.2,
    )
    report = fit(tiny, split, settings)
    assert report.epochs < 30
    assert report.steps == len(sides[True]) == 3 * report.epochs
    assert sides[True] == [24] * (report.steps - 6) + [48] * 6
    assert rates[-6:] == pytest.approx([0.05 * schedule(s, 90) for s in range(84, 90)])
