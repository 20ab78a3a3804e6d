"""The GPU check's pack and page, on a machine without a GPU."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import gpu_pack
import gpu_page
import pytest
from predecessors import BEGIN, END
from record_factory import make_failed, make_record

from pqbench.core.record import Record


def test_split_parts_join_to_the_same_file_and_a_changed_one_shows(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(bytes(range(256)) * 10)
    folder = tmp_path / "pack"
    folder.mkdir()
    parts = gpu_pack.split(whole, folder, 1000)
    assert [p.stat().st_size for p in parts] == [1000, 1000, 560]
    assert b"".join(p.read_bytes() for p in sorted(folder.glob("part.*"))) == whole.read_bytes()
    command = ["sha256sum", "--check", "--quiet", "parts.sha256"]
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0
    parts[1].write_bytes(b"cut")
    assert subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode != 0


def test_required_leaves_out_what_is_there_and_what_is_not_wanted() -> None:
    every = gpu_pack.required([], ["mlflow"], "3.12")
    assert {"hydra-core", "omegaconf", "antlr4-python3-runtime", "torch", "pydantic-core"} <= set(
        every
    )
    assert "mlflow" not in every
    assert "alembic" not in every  # only MLflow needs it
    fewer = gpu_pack.required(["torch", "Hydra_Core"], ["mlflow"], "3.12")
    assert not {"torch", "hydra-core", "triton"} & set(fewer)
    assert "omegaconf" in fewer  # pqbench asks for it, too


def test_take_images_takes_those_that_no_pretraining_saw(tmp_path: Path) -> None:
    for name in ("val/a/ILSVRC2012_val_1.JPEG", "train/a/ILSVRC2012_val_2.JPEG", "val/a/n1_3.JPEG"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert gpu_pack.take_images(tmp_path / "images", tmp_path / "out") == 2
    with pytest.raises(SystemExit, match=r"no ILSVRC2012_val_\* in"):
        gpu_pack.take_images(tmp_path / "out" / "val" / "a", tmp_path / "none")


def put_record(out: Path, record: Record) -> None:
    for place in ("sweep_m", "outputs/runs", "outputs/cache/records"):
        folder = out / place / f"{record.experiment.backend}-{record.experiment.recipe_name}"
        folder.mkdir(parents=True)
        record.save(folder)


def test_page_shows_calls_with_and_without_copies_and_why_a_cell_failed(tmp_path: Path) -> None:
    record = make_record(backend="ort_cuda", ms=1.5)
    assert record.placement
    record.placement.details["without_copies_ms"] = {"1": 0.75}
    put_record(tmp_path / "out", record)
    put_record(tmp_path / "out", make_failed(backend="ort_cuda", message="Q/DQ stays behind"))
    kept = tmp_path / "records.zip"
    assert gpu_page.keep_records(tmp_path / "out", kept) == 2
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n", encoding="utf-8")
    gpu_page.write_page(kept, page)
    text = page.read_text(encoding="utf-8")
    assert "| 1.5 [1.48, 1.53] | 0.75 |" in text
    assert "unavailable: Q/DQ stays behind" in text
    assert text.startswith("before") and text.endswith("after\n")


def test_read_records_refuses_a_name_outside_of_the_file(tmp_path: Path) -> None:
    evil = tmp_path / "records.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../record.json", "{}")
    with pytest.raises(SystemExit, match="a name outside of it"):
        gpu_page.read_records(evil)
