"""The search is seeded, goes on after a death, keeps constraints and knows its front."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from record_factory import make_failed, make_record
from record_launcher import RecordLauncher

from pqbench.app.search import FILE, Found, Search, mark_front, value_of
from pqbench.app.search_space import search_space
from pqbench.core.errors import ConfigError

OBJECTIVES = {"accuracy/drop_pt": "minimize", "speedup/b1": "maximize"}
PARAMS = {"compress": "choice(none,nncf_int8)", "ratio": "interval(0.1,0.9)"}


class Records(RecordLauncher):
    """Writes the record of a known landscape: a higher ratio is faster and drops more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launched: list[list[str]] = []

    def save(self, number: int, overrides: Sequence[str]) -> Path:
        chosen = dict(o.split("=", 1) for o in overrides)
        ratio = float(chosen.get("ratio", 0.5))
        folder = self.folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        recipe = () if chosen["compress"] == "none" else (chosen["compress"],)
        if chosen["compress"] == "broken":
            make_failed(recipe=recipe).save(folder)
        else:
            make_record(recipe=recipe, speedup=1 + ratio, drop_pt=4 * ratio**2).save(folder)
        return folder


def steps_of(overrides: list[str]) -> set[str]:
    """The steps of a recipe by its name."""
    chosen = dict(o.split("=", 1) for o in overrides)
    recipe = chosen.get("compress", "none").strip("[]")
    return set() if recipe == "none" else set(recipe.split(","))


def search(folder: Path, *arguments: str, **options: Any) -> tuple[Search, Records]:
    launcher = Records(folder)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    given: dict[str, Any] = {
        "sampler": "nsga2",
        "n_trials": 12,
        "n_jobs": 1,
        "seed": 3,
        "objectives": OBJECTIVES,
        "constraints": {"accuracy/drop_pt": 1.0},
        "params": PARAMS,
        "steps_of": steps_of,
    }
    return Search(config, launcher, arguments, **{**given, **options}), launcher


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_same_seed_chooses_the_same_so_a_dead_search_goes_on(tmp_path: Path, sampler: str) -> None:
    whole, first = search(tmp_path / "whole", sampler=sampler)
    whole.run()
    died, _ = search(tmp_path / "died", sampler=sampler, n_trials=5)
    died.run()
    again, second = search(tmp_path / "died", sampler=sampler)
    again.run()
    assert second.launched == first.launched
    assert [dataclasses.asdict(f) for f in again.found] == [
        dataclasses.asdict(f) for f in whole.found
    ]
    _, third = other = search(tmp_path / "other", sampler=sampler, seed=4)
    other[0].run()
    assert third.launched != first.launched


def test_front_keeps_the_constraint_and_is_written(tmp_path: Path) -> None:
    one, _ = search(tmp_path)
    one.run()
    stored = json.loads((tmp_path / FILE).read_text())
    assert len(stored["trials"]) == 12
    front = [t for t in stored["trials"] if t["on_front"]]
    assert front
    assert all(t["values"][0] <= 1.0 for t in front)
    assert any(t["values"][0] > 1.0 for t in stored["trials"])  # the constraint mattered
    assert one.front_lines()[0].startswith(f"Front: {len(front)} of 12")


def test_grid_runs_every_point_once_and_failures_are_told(tmp_path: Path) -> None:
    params = {"compress": "choice(none,nncf_int8,broken)", "backend": "choice(ort,openvino)"}
    one, launcher = search(tmp_path, sampler="grid", params=params, n_trials=99, n_jobs=4)
    one.run()
    assert len(launcher.launched) == 6
    assert len({tuple(o) for o in launcher.launched}) == 6
    assert sorted(f.status for f in one.found) == ["ok"] * 4 + ["unavailable"] * 2
    assert not any(f.on_front for f in one.found if f.status != "ok")


def test_setting_of_a_step_is_left_out_of_recipes_without_it(tmp_path: Path) -> None:
    arguments = ["compress=choice(none,[prune,x],y)", "compress.prune.ratio=choice(1,2)"]
    run, launcher = search(tmp_path, *arguments, sampler="grid", params={}, n_trials=99)
    run.run()
    assert sorted(launcher.launched) == [
        ["compress=[prune,x]", "compress.prune.ratio=1"],
        ["compress=[prune,x]", "compress.prune.ratio=2"],
        ["compress=none"],
        ["compress=y"],
    ]
    with pytest.raises(ConfigError, match=r"compress.prun.ratio: no recipe .* the steps are: y"):
        search(tmp_path, "compress=choice(none,y)", "compress.prun.ratio=choice(1)", params={})


def test_space_takes_arguments_over_params() -> None:
    fixed, space = search_space(
        {"a": "choice(1,2)", "b": "interval(0.1,0.2)", "c": "range(1,4)"}, ["a=7", "d=x,y", "e=5"]
    )
    assert fixed == ["a=7", "e=5"]
    assert list(space) == ["b", "c", "d"]
    assert space["c"].choices == ("1", "2", "3")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "magic"}, "magic"),
        ({"objectives": {}}, "objectives"),
        ({"objectives": {"x": "up"}}, "minimize or maximize"),
        ({"params": {}}, "nothing to choose"),
        ({"params": {"a": "choice("}}, "cannot be read"),
        ({"params": {"a": "glob(*)"}}, "glob"),
        ({"sampler": "grid"}, "interval"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        search(tmp_path, **options)
    assert words in str(caught.value)


def test_baseline_equals_itself_where_it_has_no_comparison() -> None:
    record = make_record()
    record.speedup, record.accuracy = [], None
    assert value_of(record, "speedup/b1") == 1.0
    assert value_of(record, "accuracy/drop_pt") == 0.0
    assert value_of(record, "accuracy/top1") is None


def test_dominated_and_rejected_points_are_not_on_the_front() -> None:
    values = [[0.0, 1.0], [1.0, 2.0], [1.0, 1.5], [5.0, 9.0], None]
    found = [Found([], str(i), "ok", v, [v[0] - 2 if v else 0.0]) for i, v in enumerate(values)]
    mark_front(found, ["minimize", "maximize"])
    assert [f.on_front for f in found] == [True, True, False, False, False]
