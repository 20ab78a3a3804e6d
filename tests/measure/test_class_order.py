"""Classes in another order are recognised from the confusion matrix, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from user_cases import case_model, made, plain_top1, prepared, top1

from pqbench.core.artifact import Artifact
from pqbench.core.files import write_json
from pqbench.core.split import PreparedSplit
from pqbench.export.reference import torch_outputs
from pqbench.measure.class_order import best_order, order_note


def split_of(folder: Path, labels: np.ndarray, classes: list[str]) -> PreparedSplit:
    folder.mkdir()
    np.save(folder / "labels.npy", labels)
    empty = {"arrays": [], "normalization": {}, "sources": [], "notes": [], "content": ""}
    about = {"name": "val", "count": len(labels), "classes": classes, **empty}
    write_json(folder / "manifest.json", about)
    return PreparedSplit.load(folder)


def outputs(folder: Path, predictions: np.ndarray, columns: int) -> Path:
    np.save(folder / "logits.npy", np.eye(columns, dtype=np.float32)[predictions])
    return folder / "logits.npy"


def test_best_order_is_a_permutation_that_explains_most() -> None:
    share, order = best_order([1, 1, 2, 0], [0, 0, 1, 2], 3)
    assert (share, order) == (1.0, [2, 0, 1])


@pytest.mark.parametrize(
    ("kind", "said"), [("permuted", True), ("right", False), ("guessing", False), ("few", False)]
)
def test_order_note_speaks_only_where_an_order_explains(
    kind: str, said: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    classes = [f"c{i}" for i in range(10)]
    labels = np.repeat(np.arange(10), 3 if kind == "few" else 40)
    predictions = {
        "right": labels,
        "guessing": rng.integers(0, 10, len(labels)),
    }.get(kind, (labels + 3) % 10)
    predictions = np.where(rng.random(len(labels)) < 0.1, rng.integers(0, 10), predictions)
    split = split_of(tmp_path / "split", labels, classes)
    note = order_note(outputs(tmp_path, predictions, 10), split)
    assert (note is not None) == said
    if note is not None:
        assert "'dataset.classes=[c7,c8,c9,c0,c1,c2,c3,c4,c5,c6]'" in note


def test_natural_order_is_named_and_then_right(
    torch_cases: Path, case_images: Path, tmp_path: Path
) -> None:
    import tbnets
    import torch

    case, root = torch_cases / "natural-class-order", case_images / "digits12"
    model = case_model(case, "natural12")
    split = prepared(root, tmp_path / "val", model)
    made(model, split, tmp_path / "model")
    logits = torch_outputs(
        Artifact.load(tmp_path / "model"), {"input": split.feed(slice(None))["input"]}
    )
    np.save(tmp_path / "logits.npy", logits[0])
    note = order_note(tmp_path / "logits.npy", split) or ""
    assert "top-1 is 14.2%, guessing gives 8.3%" in note
    assert "it would be 92.8%" in note
    names = [str(i) for i in range(12)]
    assert f"'dataset.classes=[{','.join(names)}]'" in note
    ordered = prepared(root, tmp_path / "ordered", model, classes=names)
    made(model, ordered, tmp_path / "again")
    network = tbnets.Plain(12)
    network.load_state_dict(torch.load(case / "natural12.pth", weights_only=True))
    expected = plain_top1(network, root / "val", order=int)
    assert expected == pytest.approx(92.75, abs=0.01)
    assert top1(tmp_path / "again", ordered) == pytest.approx(expected, abs=0.1)
