"""What a configuration names by a string, files and code, is known by its content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pqbench.cache.content import companions, named_files
from pqbench.cache.users_code import users_code
from pqbench.core.dataset import DataIndex, Split
from pqbench.core.files import content_sha256, file_sha256


def write_same_stat(path: Path, content: bytes) -> None:
    """Replace a file's content by as many bytes and put its time of change back."""
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size


def external_model(path: Path, location: str, in_a_branch: bool = False) -> None:
    """An ONNX file whose one weight lies in another file, perhaps in the body of an If."""
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    body = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [out], [weight])
    if in_a_branch:
        flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
        node = helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
        body = helper.make_graph([node], "outer", [flag], [out])
    model = helper.make_model(body)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)


def test_any_setting_that_names_a_file_is_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("w.pth", "labels.csv", "table.json", "vocabulary.txt", "mine"):
        Path(name).write_text(name)
    config = {
        "model": {"weights_file": "w.pth", "tokenizer": {"vocabulary": "vocabulary.txt"}},
        "dataset": {"source": {"labels": str(tmp_path / "labels.csv")}},
        "compress": {"mine": {"options": [{"ranges": "table.json"}], "n": 3, "own": None}},
        "my_key": "mine",
        "other": "no such file",
    }
    found = named_files(config)
    assert set(found) == {
        "w.pth",
        "vocabulary.txt",
        str(tmp_path / "labels.csv"),
        "table.json",
        "mine",
    }
    for name in found:
        before = named_files(config)
        write_same_stat(Path(name), Path(name).read_bytes()[::-1])
        after = named_files(config)
        assert [k for k in after if after[k] != before[k]] == [name]


def test_where_results_are_written_is_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    for name in ("ort", "timing.bin", "log.txt"):
        Path(name).write_text(name)
    assert not named_files(
        {
            "backend": {"name": "ort", "timing_cache": "timing.bin", "engine_cache": "cache"},
            "tracking": {"uri": "log.txt"},
            "log_file": "log.txt",
        }
    )


@pytest.mark.parametrize("in_a_branch", [False, True])
@pytest.mark.parametrize("name", ["m.onnx", "no_suffix"])
def test_external_data_of_onnx_counts_as_the_file(
    tmp_path: Path, in_a_branch: bool, name: str
) -> None:
    path = tmp_path / name
    external_model(path, "m.data", in_a_branch)
    assert companions(path) == [tmp_path / "m.data"]
    before = named_files({"file": str(path)})
    assert set(before) == {str(path), str(tmp_path / "m.data")}
    data = tmp_path / "m.data"
    write_same_stat(data, bytes(255 - b for b in data.read_bytes()))
    after = named_files({"file": str(path)})
    assert after[str(path)] == before[str(path)]
    assert after != before


def test_weights_of_openvino_and_shards_of_an_index_count_as_the_file(tmp_path: Path) -> None:
    for name in ("m.xml", "m.bin", "a.safetensors", "b.safetensors"):
        (tmp_path / name).write_text(name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}')
    found = named_files([str(tmp_path / "m.xml"), str(index)])
    assert {Path(p).name for p in found} == {
        "m.xml",
        "m.bin",
        index.name,
        "a.safetensors",
        "b.safetensors",
    }


def test_folder_of_a_model_is_known_by_its_content_and_a_data_sets_is_not_read(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tokenizer"
    (folder / "sub").mkdir(parents=True)
    file = folder / "sub" / "vocab.txt"
    file.write_text("ab")
    config = {"model": {"tokenizer": str(folder)}, "dataset": {"root": str(folder)}}
    before = named_files(config)
    assert list(before) == [str(folder)]
    write_same_stat(file, b"ba")
    assert named_files(config) != before
    assert not named_files({"dataset": config["dataset"]})


def test_hash_is_remembered_only_for_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    assert content_sha256(path) == file_sha256(path)
    write_same_stat(path, b"two")
    assert content_sha256(path) == file_sha256(path)
    other = tmp_path / "g"
    other.write_bytes(b"six")
    other.replace(path)
    assert content_sha256(path) == file_sha256(path)


def test_users_code_follows_imports_into_every_own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "own_package"
    (package / "deep").mkdir(parents=True)
    files = {
        "own_nets.py": "import torch, json\nfrom own_layers import block\n",
        "own_layers.py": "def block():\n    import own_late\n",
        "own_late.py": "import importlib\nimportlib.import_module('own_package.deep.head')\n",
        "own_package/__init__.py": "",
        "own_package/deep/__init__.py": "",
        "own_package/deep/head.py": "from . import tail\n",
        "own_package/deep/tail.py": "x = 1\n",
        "own_unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    config = {"model": {"network": {"_target_": "own_nets.Net"}}}
    used = set(files) - {"own_unused.py"}
    assert set(users_code(config)) == used
    for name in used:
        before = users_code(config)
        (tmp_path / name).write_text(files[name] + "# changed\n")
        assert [k for k, v in users_code(config).items() if v != before[k]] == [name]


def test_module_beside_the_importing_file_counts_though_the_path_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "entry_point").mkdir()
    (tmp_path / "entry_point" / "__init__.py").write_text("import sys\nimport besides_it\n")
    (tmp_path / "entry_point" / "besides_it.py").write_text("import above_it\n")
    (tmp_path / "above_it.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = users_code({"task": "entry_point.Task"})
    assert set(found) == {
        "entry_point/__init__.py",
        "entry_point/besides_it.py",
        "besides_it.py",
        "above_it.py",
    }


def test_listing_of_a_small_data_set_sees_a_change_that_stat_does_not_show(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    index = DataIndex(("x",), {"val": Split((path,), (0,))})
    before = index.listing_hash()
    write_same_stat(path, b"two")
    assert index.listing_hash() != before
