"""The golden results: well formed, every failure with its cause; a small part measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import conformance
import conformance_page
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

FILES = sorted(Path(__file__).parent.glob("*.yaml"))
QUICK = "mobilenetv3_elpv_quick.yaml"  # measured again by the tests; installed wheels suffice
CELLS = [(f.name, i) for f in FILES for i in range(len(yaml.safe_load(f.read_text())["cells"]))]


def _golden(name: str) -> dict[str, Any]:
    value = yaml.safe_load((Path(__file__).parent / name).read_text())
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_file_says_what_it_is_and_when_it_was_measured(file: Path) -> None:
    golden = _golden(file.name)
    assert set(golden) == {
        "model", "dataset", "settings", "needs", "tolerance", "measured", "cells",
    }  # fmt: skip
    assert set(golden["tolerance"]) == set(conformance.COMPARED)
    assert set(golden["measured"]) == {"date", "cpu", "cpu_saturates_int8", "libraries"}
    assert golden["measured"]["libraries"]["onnx"]
    names = [(c["name"], c["backend"]) for c in golden["cells"]]
    assert len(set(names)) == len(names)
    for group in ("model", "dataset"):
        assert (ROOT / "conf" / group / f"{golden[group]}.yaml").is_file()


@pytest.mark.parametrize(("name", "number"), CELLS)
def test_cell_has_figures_and_a_cause_where_they_are_bad(name: str, number: int) -> None:
    cell = _golden(name)["cells"][number]
    assert set(cell) - {"measured"} == {
        "name", "recipe", "backend", "settings", "expected_failure", "figures",
    }  # fmt: skip
    assert set(cell.get("measured", ())) in (set(), {"date", "cpu", "cpu_saturates_int8"})
    for step in cell["recipe"]:
        assert (ROOT / "conf" / "compress" / f"{step}.yaml").is_file()
    assert (ROOT / "conf" / "backend" / f"{cell['backend']}.yaml").is_file()
    if cell["figures"]["status"] == "ok":
        assert set(cell["figures"]) == set(conformance.FIGURES)
        assert 0.5 < cell["figures"]["top1"] <= 1 or cell["expected_failure"]
    assert bool(cell["expected_failure"]) == bool(conformance.failures(cell))


def test_differences_are_told_beyond_the_tolerance_only() -> None:
    tolerance = {"top1_pt": 1.0, "size_ratio": 0.01, "int8_share": 0.02}
    golden = {"status": "ok", "top1": 0.9, "size_ratio": 0.28, "int8_share": None}
    assert conformance.differences(golden, {**golden, "top1": 0.891}, tolerance) == []
    (found,) = conformance.differences(golden, {**golden, "top1": 0.88}, tolerance)
    assert found == "top1 0.9 -> 0.88 (tolerance 0.01)"
    assert conformance.differences(golden, {**golden, "int8_share": 1.0}, tolerance)
    failed = {"status": "failed", "message": "out of luck"}
    assert conformance.differences(golden, failed, tolerance) == [
        "status ok -> failed (out of luck)"
    ]


def test_command_measures_again_and_shows_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quickest cells on few images, and the same file with a wrong figure."""
    monkeypatch.setenv("CI", "true")  # no telemetry
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # its own device lock
    golden = _golden(QUICK)
    assert golden["needs"] is None
    outputs = ["--outputs", str(tmp_path / "outputs")]
    quick = [c["name"] for c in golden["cells"] if c["name"] in ("none", "ort_int8")]
    command = [
        str(Path(__file__).parent / QUICK),
        *outputs,
        "--cells",
        ",".join(dict.fromkeys(quick)),
    ]
    assert conformance.main(command) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.count("as it was") == len(quick)
    (cell,) = (c for c in golden["cells"] if c["name"] == "none")
    cell["figures"]["top1"] -= 0.1
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(golden))
    assert conformance.main([str(wrong), *outputs, "--cells", "none"]) == 1
    assert "top1" in capsys.readouterr().out.splitlines()[-1]


def test_page_is_made_from_the_files() -> None:
    page = conformance_page.PAGE.read_text(encoding="utf-8")
    made = conformance_page.page(conformance_page.golden_files())
    assert page == made, "run python scripts/conformance_page.py"
    for cell in (c for name in FILES for c in _golden(name.name)["cells"]):
        assert (cell["expected_failure"] or "") in page


def test_command_says_what_is_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PQBENCH_TEST_DATA", str(tmp_path / "nowhere"))
    file = tmp_path / "needy.yaml"
    file.write_text(yaml.safe_dump({**_golden("mobilenetv3_elpv.yaml"), "needs": "weights"}))
    assert conformance.main([str(file)]) == 2
    assert "no test data at" in capsys.readouterr().err
