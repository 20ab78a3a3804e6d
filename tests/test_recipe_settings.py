"""Settings of steps in sweeps over recipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pqbench.app.recipe_settings import each_by_job, fit_to_recipes
from pqbench.core.errors import ConfigError

OPTIONS = ("none", "prune", "finetune")
RECIPES = {"compress=none": set(), "compress=[prune,finetune]": {"prune", "finetune"}}


def steps_of(overrides: list[str]) -> set[str]:
    return next(steps for name, steps in RECIPES.items() if name in overrides)


def test_settings_apply_where_their_step_is_and_equal_jobs_are_one() -> None:
    jobs = [
        [recipe, f"compress.finetune.epochs={epochs}", "seed=0"]
        for recipe in RECIPES
        for epochs in (5, 7)
    ]
    assert fit_to_recipes(jobs, steps_of, [], OPTIONS) == [
        ["compress=none", "seed=0"],
        ["compress=[prune,finetune]", "compress.finetune.epochs=5", "seed=0"],
        ["compress=[prune,finetune]", "compress.finetune.epochs=7", "seed=0"],
    ]


def test_setting_of_a_step_that_no_recipe_has_is_refused() -> None:
    jobs = [["compress=none", "compress.finetune.epochs=5"]]
    with pytest.raises(ConfigError, match=r"epochs=5: no recipe .* has a step 'finetune'"):
        fit_to_recipes(jobs, steps_of, jobs[0], OPTIONS)


def test_experiments_settings_of_steps_that_were_replaced_are_left_out() -> None:
    jobs = [["compress=none", "compress.prune.pruning_ratio=0.5"]]
    mine = ["experiment=mine", "compress=none"]
    assert fit_to_recipes(jobs, steps_of, mine, OPTIONS) == [["compress=none"]]


def test_experiments_setting_of_a_step_that_does_not_exist_is_refused() -> None:
    jobs = [["compress=none", "compress.prun.pruning_ratio=0.5"]]
    with pytest.raises(ConfigError, match="no recipe of the sweep has a step 'prun'"):
        fit_to_recipes(jobs, steps_of, ["experiment=mine"], OPTIONS)


def test_jobs_without_settings_of_steps_are_left_alone() -> None:
    jobs = [["compress=none", "seed=1"], ["compress=none", "seed=1"]]
    assert fit_to_recipes(jobs, lambda _: pytest.fail("nothing need be composed"), [], []) == jobs


def test_each_by_job_makes_settings_of_steps_choices() -> None:
    given = ["compress=none,prune", "compress.prune.ignored_layers=[a,b]", "seed=1"]
    assert each_by_job(given)[1] == "compress.prune.ignored_layers=choice([a,b])"
    swept = ["compress.prune.pruning_ratio=0.2,0.4"]
    assert each_by_job(swept) == swept
    assert each_by_job([*given, "search=pareto"])[1] == each_by_job(given)[1]
    own = [*given, "hydra/sweeper=optuna"]
    assert each_by_job(own) == own


def check_epochs_only_where_finetuned(sweep: Path) -> None:
    jobs = {
        file.parent.parent.name: yaml.safe_load(file.read_text())
        for file in sweep.glob("*/.hydra/overrides.yaml")
    }
    assert {name.partition("_")[2] for name in jobs} == {"cnn_none_ort", "cnn_prune+finetune_ort"}
    for name, overrides in jobs.items():
        assert ("compress.finetune.epochs=5" in overrides) == ("finetune" in name)


def test_sweep_over_recipes_takes_settings_of_some(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pqbench", "-m", "model=cnn", "backend=ort", "tracking=none"]
    command += ["dataset=imagefolder", "dataset.root=nowhere", "compress=none,[prune,finetune]"]
    command += ["compress.finetune.epochs=5", "hydra.sweep.dir=sweep"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr  # there is no such folder: every cell is a row
    check_epochs_only_where_finetuned(tmp_path / "sweep")


@pytest.mark.parametrize("given", [[], ["-m"]])
def test_experiment_that_sweeps_takes_settings_of_some_recipes(
    given: list[str], tmp_path: Path
) -> None:
    """With ``-m`` or without: the file says that it is a sweep."""
    own = tmp_path / "own" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "# @package _global_\nhydra:\n    mode: MULTIRUN\n    sweeper:\n        params:\n"
        "            compress: none,[prune,finetune]\n"
    )
    command = [sys.executable, "-m", "pqbench", "--config-dir", "own", "experiment=mine", *given]
    command += ["model=cnn", "backend=ort", "tracking=none", "dataset=imagefolder"]
    command += ["dataset.root=nowhere", "compress.finetune.epochs=5", "hydra.sweep.dir=sweep"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    check_epochs_only_where_finetuned(tmp_path / "sweep")
