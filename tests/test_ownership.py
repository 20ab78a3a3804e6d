"""pqbench deletes and replaces only what it made; a run owns its folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_sweep as tiny
from omegaconf import OmegaConf
from record_factory import make_sweep

from pqbench.app.callbacks import enter_sweep
from pqbench.app.run_folder import RunFolder, is_given, new_folder
from pqbench.app.sweep_state import Sweep, find_earlier
from pqbench.core.errors import ConfigError
from pqbench.core.ownership import MARKER, claim, note
from pqbench.report import __main__ as report
from pqbench.report.write import write_report

NAMES = ("model", "logs", "requirements.txt", "report")
HINT = "move it away"


def make_model(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "model.onnx").write_text("weights")
    (folder / "requirements.txt").write_text("torch==2\n")
    (folder / "logs").mkdir()
    (folder / "logs" / "fit.log").write_text("epoch 1")


@pytest.mark.parametrize("name", ["model", "logs", "requirements.txt", "report"])
def test_users_file_under_a_name_of_ours_is_refused_and_untouched(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"{name} is there already and was not made by pqbench"):
        claim(tmp_path, NAMES, HINT)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_dangling_link_of_the_users_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tmp_path / "not mounted now")
    with pytest.raises(ConfigError, match="model is there already"):
        claim(tmp_path, NAMES, HINT)


def test_what_pqbench_made_is_its_own_the_second_time_and_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    claim(tmp_path, NAMES, HINT)
    make_model(tmp_path)
    claim(tmp_path, NAMES, HINT)  # it was killed before it could note anything
    note(tmp_path)
    (tmp_path / "logs" / "fit.log").write_text("epoch 1, epoch 2")
    claim(tmp_path, NAMES, HINT)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [MARKER, "thesis.tex", "model", "requirements.txt", "logs"]
    )


@pytest.mark.parametrize("what", ["added", "changed", "linked"])
def test_what_was_put_among_ours_is_set_aside_and_not_deleted(tmp_path: Path, what: str) -> None:
    claim(tmp_path, NAMES, HINT)
    make_model(tmp_path)
    note(tmp_path)
    path = tmp_path / "model" / ("model.onnx" if what == "changed" else "notes.txt")
    path.symlink_to(tmp_path / "x") if what == "linked" else path.write_text("mine")
    claim(tmp_path, NAMES, HINT)
    assert not (tmp_path / "model").exists()
    kept = tmp_path / "model.kept-1" / path.name
    assert kept.is_symlink() if what == "linked" else kept.read_text() == "mine"
    assert (tmp_path / "requirements.txt").exists()


def test_edited_table_is_kept_and_a_foreign_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = make_sweep()[:2]
    write_report(records, tmp_path / "out", plots=False)
    (tmp_path / "out" / "table.tex").write_text("edited by hand")
    write_report(records, tmp_path / "out", plots=False)
    assert (tmp_path / "out" / "table.tex.kept-1").read_text() == "edited by hand"
    assert "tabular" in (tmp_path / "out" / "table.tex").read_text()

    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "table.tex").write_text("mine")
    records[0].save(tmp_path / "out")
    command = [str(tmp_path / "out"), "--out", str(tmp_path / "paper"), "--no-plots"]
    assert report.main(command) == 2
    assert "table.tex is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "paper").iterdir()] == ["table.tex"]


def test_runs_of_one_second_get_a_folder_each(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "2026-11-26_10-00-00"
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(new_folder, [folder] * 16))
    assert len(set(made)) == 16
    assert all(path.is_dir() for path in made)


def test_given_folder_is_used_by_one_run_at_a_time(tmp_path: Path) -> None:
    one = RunFolder(tmp_path / "run", given=True)
    with pytest.raises(ConfigError, match="another process runs an experiment"):
        RunFolder(tmp_path / "run", given=True)
    one.let_go()
    two = RunFolder(tmp_path / "run", given=True)
    assert two.folder == one.folder
    two.let_go()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [MARKER]


def test_refused_folder_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    with pytest.raises(ConfigError, match=r"\.hydra is there already"):
        RunFolder(tmp_path, given=True)
    assert [path.name for path in tmp_path.iterdir()] == [".hydra"]


def sweep_config(folder: Path, *task: str) -> OmegaConf:
    where = str(folder / "2026-11-26_10-00-00")
    overrides = {"task": list(task), "hydra": []}
    return OmegaConf.create(
        {
            "force": False,
            "hydra": {"run": {"dir": "x"}, "sweep": {"dir": where}, "overrides": overrides},
        }
    )


def test_sweeps_of_one_second_get_a_folder_each_and_one_goes_on(tmp_path: Path) -> None:
    configs = [sweep_config(tmp_path, f"seed={seed},9") for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        sweeps = list(pool.map(lambda config: enter_sweep(config, 2), configs))
    folders = {sweep.folder for sweep in sweeps}
    assert len(folders) == 8
    mine = enter_sweep(sweep_config(tmp_path, "seed=8,9"), 2)
    mine._lock.release()  # as the kernel does when its process dies
    again = enter_sweep(sweep_config(tmp_path, "seed=8,9"), 2)
    assert again.folder == mine.folder
    other = enter_sweep(sweep_config(tmp_path, "seed=8,9"), 2)  # while that one runs
    assert other.folder not in {mine.folder, *folders}


def test_sweep_in_a_users_folder_is_refused_and_an_unmarked_one_not_gone_on_with(
    tmp_path: Path,
) -> None:
    (tmp_path / "0_data").mkdir()
    (tmp_path / "0_data" / "x").write_text("mine")
    with pytest.raises(ConfigError, match="0_data was not made by pqbench"):
        Sweep(tmp_path, ["a"], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["0_data"]
    sweep = Sweep(tmp_path / "sweeps" / "one", ["a"], 1)
    sweep._lock.release()
    assert find_earlier(tmp_path / "sweeps", ["a"], finished_too=False) is not None
    (sweep.folder / MARKER).unlink()
    assert find_earlier(tmp_path / "sweeps", ["a"], finished_too=False) is None


@pytest.mark.parametrize(
    ("overrides", "name", "given"),
    [
        ([], "outputs/runs/2026-11-26_10-00-00", False),
        (["hydra.run.dir=outputs/2026-11-26_10-00-00"], "outputs/2026-11-26_10-00-00", True),
        ([], "results", True),
    ],
)
def test_folder_is_new_only_where_the_user_gave_none(
    overrides: list[str], name: str, given: bool
) -> None:
    config = OmegaConf.create(
        {"hydra": {"run": {"dir": name}, "overrides": {"hydra": overrides, "task": []}}}
    )
    assert is_given(config, "hydra.run.dir") is given


def test_run_in_a_folder_with_a_users_files_ends_with_2_and_changes_nothing(tmp_path: Path) -> None:
    tiny.prepare(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")

    def seen() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    before = seen()
    code, output = tiny.run(tmp_path, "compress=none", "backend=torch", "hydra.run.dir=.")
    assert code == 2, output
    assert "model is there already and was not made by pqbench" in output
    assert "set another hydra.run.dir, or move it away" in output
    assert "Traceback" not in output
    assert seen() == before
