"""Reproducing runs classes of pqbench and of packages that the user names, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import version_1

from pqbench import reproduce
from pqbench.app.arguments import config_folder
from pqbench.app.trust import check_classes, check_trust, read_environment, with_references
from pqbench.core.errors import ConfigError, DataError
from pqbench.core.record import FILE, Record

CONFIG: dict[str, Any] = {
    "model": {
        "task": "classification",
        "network": {"_target_": "torchvision.models.mobilenet_v3_large"},
        "pretrained": {"_target_": "pqbench.models.pretrained.torchvision_weights", "name": "x"},
    },
    "dataset": {"source": {"_target_": "pqbench.data.folder.ImageFolder", "root": "x"}},
    "compress": {"prune": {"_target_": "pqbench.compress.prune.Prune"}},
    "backend": {"_target_": "pqbench.backends.ort.backend.OrtBackend"},
}


def with_value(value: object, *keys: str) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    node = config
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return config


def check(config: dict[str, Any], *allowed: str) -> None:
    check_trust(config, config_folder(), allowed)
    check_classes(config, 2, None)


def test_shipped_classes_are_trusted() -> None:
    check(CONFIG)


@pytest.mark.parametrize(
    ("value", "keys", "package"),
    [
        ({"_target_": "subprocess.Popen", "args": ["x"]}, ("backend",), "subprocess"),
        ([{"deep": [{"_target_": "os.system", "command": "x"}]}], ("model", "own"), "os"),
        ({"_target_": "builtins.eval", "_args_": ["1"]}, ("dataset", "source"), "builtins"),
        ("my_tasks.Task", ("model", "task"), "my_tasks"),
        ({"_target_": "torchvision.datasets.utils.download_url"}, ("model", "own"), "torchvision"),
    ],
)
def test_code_of_others_is_shown_and_refused_until_its_package_is_named(
    value: object, keys: tuple[str, ...], package: str
) -> None:
    config = with_value(value, *keys)
    with pytest.raises(ConfigError, match=f"--allow {package}"):
        check(config)
    with pytest.raises(ConfigError):
        check(config, "another")
    check(config, package)


@pytest.mark.parametrize(
    "target",
    [
        "pqbench.core.files.write_json",
        "pqbench.core.instantiate.make",
        "pqbench.assets.download.Path",
        "pqbench.models.prepare.prepare_model",
        "pqbench.compress.prune.Path",
        "pqbench.workers.stage_process.subprocess.Popen",
    ],
)
def test_functions_of_pqbench_and_what_they_import_are_not_classes_of_it(target: str) -> None:
    with pytest.raises((ConfigError, DataError)):
        check(with_value({"_target_": target}, "model", "network"))


@pytest.mark.parametrize(
    "text",
    [
        *("${call:os.system,touch x}", "${oc.decode:1}", "${model.task}"),
        *("${oc.env:${model.task}}", "${oc.env:HOME,${call:os.system,touch x}}"),
    ],
)
def test_interpolations_are_refused_and_never_resolved(text: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.head holds"):
        check(with_value(text, "model", "head"))
    with pytest.raises(ConfigError, match="holds"):
        check(with_value({text: 1}, "model", "head"))


def test_strangers_record_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    value = json.loads((version_1.FOLDER / "baseline" / FILE).read_text())
    value["config"]["backend"] = {
        "_target_": "subprocess.Popen",
        "args": ["touch", str(tmp_path / "touched")],
    }
    (tmp_path / FILE).write_text(json.dumps(value))
    assert reproduce.main([str(tmp_path)]) == 2
    assert "backend._target_=subprocess.Popen" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_record_whose_classes_have_moved_says_which_commit_to_install(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = version_1.FOLDER / "nncf_int8"
    assert Record.load(folder).ok
    assert reproduce.main([str(folder)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "pqbench.backends.ort.OrtBackend is not in this one" in lines[0]
    assert "git checkout 50ff054" in lines[0]


def test_environment_is_read_where_its_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "s3cr3t")
    monkeypatch.delenv("B_TOKEN", raising=False)
    config = with_value(["x/${oc.env:A_TOKEN}", "${oc.env:B_TOKEN, b}"], "model", "head")
    with pytest.raises(ConfigError, match="reads the environment: A_TOKEN, B_TOKEN"):
        check(config)
    partly = read_environment(config, ["B_TOKEN"])
    assert partly["model"]["head"] == ["x/${oc.env:A_TOKEN}", "b"]
    with pytest.raises(ConfigError, match="reads the environment: A_TOKEN"):
        check(partly)
    whole = read_environment(config, ["A_TOKEN", "B_TOKEN"])
    assert whole["model"]["head"] == ["x/s3cr3t", "b"]
    check(whole)
    assert with_references(whole, config) == config
    with pytest.raises(ConfigError, match="reads C from the environment, where it is not set"):
        read_environment(with_value("${oc.env:C}", "model", "head"), ["C"])
