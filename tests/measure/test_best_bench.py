"""``search=best`` is compared with the sweep by what was chosen, and by costs with the stages."""

from __future__ import annotations

import json
from pathlib import Path

import best
import pytest
from record_factory import make_record

from pqbench.core.record import Record


def part(out: Path, name: str, records: list[Record], chosen: int, equals: list[int]) -> None:
    """A finished sweep or search: its records, and the answer among them."""
    for number, record in enumerate(records):
        folder = out / name / "run" / str(number)
        folder.mkdir(parents=True)
        record.save(folder)
    cells = [{"name": r.experiment.recipe_name, "fingerprint": r.fingerprint} for r in records]
    one = {"model": "mobilenetv3", "sentence": "", "best": cells[chosen]}
    one["equals"] = [cells[i] for i in equals]
    report = out / name / "run" / "report"
    report.mkdir()
    (report / "answer.json").write_text(json.dumps({"answers": [one]}))


@pytest.mark.parametrize(
    ("chosen", "equals", "cpu_s", "verdict", "code"),
    [
        (1, [], 30.0, "agrees", 0),
        (2, [2], 30.0, "agrees", 0),  # the sweep cannot tell it from its answer
        (2, [], 30.0, "DIFFERS", 1),
        (1, [], 80.0, "agrees", 1),  # too dear
    ],
)
def test_best_bench_compares_cells_and_costs(
    chosen: int,
    equals: list[int],
    cpu_s: float,
    verdict: str,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = [
        make_record(),
        make_record(recipe=("ort_int8",), speedup=2.0),
        make_record(recipe=("nncf_int8",), speedup=1.9),
    ]
    part(tmp_path, "sweep", records, 1, equals)
    part(tmp_path, "search1", records, chosen, [])
    costs = {"stages": 20.0, "sweep": 180.0, "search1": cpu_s}
    (tmp_path / "costs.json").write_text(
        json.dumps({k: {"cpu_s": v, "wall_s": v, "done": True} for k, v in costs.items()})
    )
    assert best.compare(best.Settings(tmp_path, (), "default", "30m"), [1]) == code
    output = capsys.readouterr().out
    assert f": {verdict}" in output
    assert f"{(20 + cpu_s) / 200:.0%} of the sweep's CPU time" in output


def test_best_bench_counts_a_search_without_an_answer_as_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [make_record(), make_record(recipe=("ort_int8",), speedup=2.0)]
    part(tmp_path, "sweep", records, 1, [])
    part(tmp_path, "search1", records, 1, [])
    silent = tmp_path / "search1" / "run" / "report" / "answer.json"
    silent.write_text(json.dumps({"answers": []}))
    cost = {"cpu_s": 1.0, "wall_s": 1.0, "done": True}
    costs = dict.fromkeys(("stages", "sweep", "search1"), cost)
    (tmp_path / "costs.json").write_text(json.dumps(costs))
    assert best.compare(best.Settings(tmp_path, (), "default", "30m"), [1]) == 1
    assert "no answer: DIFFERS" in capsys.readouterr().out
