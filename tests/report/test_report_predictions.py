"""What the page tells of the answers: confusion matrix, classes, samples that flipped."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_factory import make_record

from pqbench.core.record import ClassScore, Faithfulness, Record
from pqbench.report.environments import record_keys
from pqbench.report.predictions import MAX_CLASSES, predicted

LABELS = [0, 0, 0, 1, 1, 2]
BEFORE = [0, 0, 1, 1, 2, 2]
AFTER = [0, 1, 0, 1, 2, 1]  # lost 1 and 5, won 2


def save(folder: Path, labels: list[int], predictions: list[int], **more: list[str]) -> None:
    folder.mkdir()
    columns = {"label": pa.array(labels, pa.int32()), "prediction": pa.array(predictions)}
    pq.write_table(pa.table({**columns, **more}), folder / "predictions.parquet")


def pair(tmp_path: Path) -> tuple[list[Record], dict[tuple[str, str], Path]]:
    base, own = make_record(), make_record(recipe=("nncf_int8",))
    own.baseline = base.fingerprint
    sources = [f"image{i}.png" for i in range(6)]
    save(tmp_path / "base", LABELS, BEFORE, source=sources)
    save(tmp_path / "own", LABELS, AFTER, source=sources)
    records = [base, own]
    folders = dict(zip(record_keys(records), (tmp_path / "base", tmp_path / "own"), strict=True))
    return records, folders


def test_matrix_counts_answers_by_true_class(tmp_path: Path) -> None:
    records, folders = pair(tmp_path)
    base, own = predicted(records, folders)
    assert base["matrix"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert own["matrix"] == [[2, 1, 0], [0, 1, 1], [0, 1, 0]]
    assert [c["recall"] for c in own["classes"]] == pytest.approx([2 / 3, 1 / 2, 0])
    assert "flips" not in base


def test_flips_name_the_samples_and_put_what_was_lost_first(tmp_path: Path) -> None:
    records, folders = pair(tmp_path)
    told = predicted(records, folders)[1]
    assert (told["lost"], told["won"], told["flipped"]) == (2, 1, 3)
    assert [f["sample"] for f in told["flips"]] == ["image1.png", "image5.png", "image2.png"]
    assert told["flips"][1] == {
        "sample": "image5.png", "label": "2", "before": "2", "after": "1", "what": "lost",
        "picture": None,
    }  # fmt: skip


def test_flips_hold_the_pictures_that_lie_beside_the_record(tmp_path: Path) -> None:
    records, folders = pair(tmp_path)
    records[1].files["flips"] = "flips"
    folder = tmp_path / "own"
    (folder / "flips").mkdir()
    (folder / "flips" / "5.jpg").write_bytes(b"jpeg")
    told = predicted(records, folders)[1]
    pictures = {f["sample"]: f["picture"] for f in told["flips"]}
    assert pictures["image5.png"] == "data:image/jpeg;base64,anBlZw=="
    assert pictures["image1.png"] is None


def test_classes_have_the_names_and_intervals_of_the_record(tmp_path: Path) -> None:
    records, folders = pair(tmp_path)
    assert records[1].accuracy is not None
    names = ("cat", "dog", "eel")
    classes = [ClassScore(n, 3, 0.5, 0.1, 0.9, 0.6, lost=n == "eel") for n in names]
    records[1].accuracy.faithfulness = Faithfulness("cat", 0.5, "cat", 0.5, 0.4, classes=classes)
    told = predicted(records, folders)[1]
    assert told["names"] == ["cat", "dog", "eel"]
    assert [c["lost"] for c in told["classes"]] == [False, False, True]
    assert told["flips"][1]["after"] == "dog"


def test_many_classes_have_no_matrix_and_broken_files_no_answers(tmp_path: Path) -> None:
    records, folders = pair(tmp_path)
    many = list(range(MAX_CLASSES + 1))
    pq.write_table(
        pa.table({"label": pa.array(many), "prediction": pa.array(many)}),
        tmp_path / "own" / "predictions.parquet",
    )
    (tmp_path / "base" / "predictions.parquet").write_bytes(b"PAR1 no more")
    (told,) = predicted(records, folders)
    assert told["matrix"] == []
    assert told["count"] == MAX_CLASSES + 1
    assert "flips" not in told  # other samples than the baseline's, or none
    assert predicted(records, {}) == []
