import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import make_failed, make_record, make_sweep

from pqbench.tracking import content

METRIC_NAME = re.compile(r"[\w\-. :]+(/[\w\-. :]+)*", re.ASCII)  # what MLflow takes


@pytest.mark.parametrize("record", make_sweep(), ids=content.run_name)
def test_content_fits_mlflow_limits(record):
    metrics, params = content.metrics(record), content.params(record)
    assert all(METRIC_NAME.fullmatch(name) for name in metrics)
    assert all(isinstance(value, float) for value in metrics.values())
    assert len(params) <= 100
    assert all(value for value in params.values())


def test_run_name_begins_with_what_differs_within_a_sweep():
    assert content.run_name(make_record()) == "baseline · openvino · mobilenetv3"
    record = make_record(recipe=("prune", "nncf_int8"))
    assert content.run_name(record) == "prune+nncf_int8 · openvino · mobilenetv3"


def test_metrics_hold_the_record_and_leave_nulls_out():
    record = make_record(recipe=("nncf_int8",), ms=3.1, speedup=1.9, top1=0.905, int8=26)
    record.memory.rss_peak_mb = None
    record.latency[0].mean_ms = float("nan")
    record.latency[0].p95_ms = float("inf")
    metrics = content.metrics(record)
    assert metrics["accuracy/top1"] == 0.905
    assert metrics["latency/p50_ms_b1"] == 3.1
    assert metrics["speedup/b1"] == 1.9
    assert metrics["int8_share"] == 0.5
    assert metrics["size/file_mb"] == pytest.approx(16.1, abs=1e-4)
    assert metrics["size/parameters"] == 4_200_000
    assert "memory/rss_peak_mb" not in metrics
    assert "latency/p95_ms_b1" not in metrics


def test_curves_hold_every_epoch_of_every_training_step():
    record = make_record(recipe=("finetune", "prune", "finetune_2"))
    first = {"loss": [0.7, 0.5], "validation_loss": [0.8, float("nan")]}
    record.lineage = [
        {"action": "source", "seconds": 1.0, "config": {}, "details": {"loss": None}},
        {"action": "finetune", "seconds": 1.0, "config": {}, "details": first},
        {"action": "prune", "seconds": 1.0, "config": {}, "details": {}},
        {"action": "finetune", "seconds": 1.0, "config": {}, "details": {"loss": [0.25]}},
    ]
    curves = content.curves(record)
    assert curves == [
        ("training/finetune/loss", 1, 0.7),
        ("training/finetune/loss", 2, 0.5),
        ("training/finetune/validation_loss", 1, 0.8),
        ("training/finetune_2/loss", 1, 0.25),
    ]
    assert all(METRIC_NAME.fullmatch(name) for name, _, _ in curves)


def test_params_hold_the_settings_of_the_steps_that_ran():
    params = content.params(make_record(recipe=("prune", "finetune")))
    assert params["recipe"] == "prune+finetune"
    assert params["step.prune.pruning_ratio"] == "0.3"
    assert params["step.finetune.epochs"] == "4"
    assert params["batch_sizes"] == "1 16 64"
    assert not any("_target_" in key for key in params)
    assert "step.nncf_int8.preset" not in params


def test_tags_and_description_of_a_failure_say_why():
    record = make_failed()
    tags = content.tags(record, "abc", "sweep1")
    assert tags["status"] == "unavailable"
    assert "no driver was found" in tags["error"]
    assert tags["machine"] == "Example CPU @ 2.10GHz"
    note = tags["mlflow.note.content"]
    assert "no driver was found" in note
    assert "choose another backend" in note
    assert record.command in note


def test_machine_names_cpu_and_gpus():
    environment = {"cpu": {"model": "A CPU"}, "gpus": [{"index": 0, "name": "A GPU"}]}
    assert content.machine(environment) == "A CPU + A GPU"
    assert content.machine({}) is None


def test_description_shows_the_five_numbers():
    note = content.description(make_record(recipe=("nncf_int8",), speedup=0.8, drop_pt=1.25))
    for part in ("91.00 %", "1.25 pt", "0.45 to 2.15", "6 ms", "0.80 x", "16.10 MiB"):
        assert part in note


def test_tags_are_cut_to_what_mlflow_takes():
    record = make_record()
    record.notes = ["x" * 9000]
    assert len(content.tags(record, "abc", None)["mlflow.note.content"]) <= 8000
    assert "sweep" not in content.tags(record, "abc", None)


def test_table_view_selects_columns_that_exist():
    records = make_sweep()
    view = content.table_view(records, "s 1")
    metrics = {f"metrics.`{name}`" for record in records for name in content.metrics(record)}
    params = {f"params.`{name}`" for record in records for name in content.params(record)}
    assert set(view["selectedColumns"]) <= metrics | params
    assert view["searchFilter"] == 'tags.sweep = "s 1"'


@given(st.text())
def test_table_view_filter_never_breaks_on_quotes(sweep):
    view = content.table_view([], sweep)
    if "searchFilter" in view:
        assert view["searchFilter"].count('"') == 2
        assert "'" not in view["searchFilter"]
