"""Another checkpoint under the same name is another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_sweep as tiny

from pqbench.core.files import file_sha256
from pqbench.core.record import Record
from pqbench.experiment.reuse import shown_sources


def save_weights(path: Path, seed: int) -> None:
    import torch
    from user_steps import tiny_network

    torch.manual_seed(seed)
    torch.save(tiny_network(num_classes=2).state_dict(), path)


def run(folder: Path, name: str) -> tuple[Record, np.ndarray]:
    arguments = ["model.weights=file", "model.weights_file=w.pth", "backend=torch", "compress=none"]
    arguments += ["tracking=none", "protocol.weigh=false", f"hydra.run.dir={name}"]
    code, output = tiny.run(folder, *arguments)
    assert code == 0, output
    record = Record.load(folder / name)
    return record, np.load(folder / name / record.files["logits"])


@pytest.mark.slow
def test_checkpoint_that_was_trained_again_into_the_same_path_is_measured(tmp_path: Path) -> None:
    tiny.prepare(tmp_path)
    save_weights(tmp_path / "w.pth", seed=0)
    first, before = run(tmp_path, "one")
    assert first.sources["w.pth"] == file_sha256(tmp_path / "w.pth")
    same, _ = run(tmp_path, "two")
    assert same.created == first.created
    save_weights(tmp_path / "w.pth", seed=1)
    other, after = run(tmp_path, "three")
    assert other.fingerprint == first.fingerprint
    assert other.identity != first.identity
    assert not np.allclose(before, after)


def test_record_names_sources_without_what_the_environment_holds() -> None:
    found = {"/secret/home/w.pth": "1", "m.onnx": "2", "code:mine/nets.py": "3"}
    shown = {"model": {"weights_file": "${oc.env:HOME}/w.pth", "file": "m.onnx"}}
    assert shown_sources(found, shown) == {"w.pth": "1", "m.onnx": "2", "code:mine/nets.py": "3"}
