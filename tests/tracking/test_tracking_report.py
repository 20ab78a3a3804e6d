import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from record_factory import make_record

from pqbench.core.errors import ConfigError, DataError
from pqbench.report import __main__ as report
from pqbench.report.mlflow_source import fetch_records
from pqbench.tracking import store
from pqbench.tracking.push import push
from pqbench.tracking.report_run import push_report
from pqbench.tracking.settings import TrackingSettings

SWEEP = "2026-11-24_10-00-00"


def client_of(settings):
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri)


def save_model(folder: Path) -> None:
    """A deployed ONNX model of one layer, free in its batch."""
    folder.mkdir(parents=True)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.ones(8, np.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")


@pytest.fixture(scope="module")
def pushed(empty_store, tmp_path_factory):
    """A store with two records of a sweep; the first one's model in the registry."""
    root = tmp_path_factory.mktemp("pushed")
    shutil.copytree(empty_store, root / "outputs")
    settings = TrackingSettings(
        outputs=str(root / "outputs"), onnx_flavour=True, registered_model="layer"
    )
    experiment = store.ensure_store(settings)
    runs = []
    for name, record in (("0", make_record()), ("1", make_record(recipe=("nncf_int8",)))):
        save_model(root / name / "model")
        record.files = {"model": "model"}
        record.save(root / name)
        own = settings if name == "0" else TrackingSettings(outputs=settings.outputs)
        runs.append(push(record, root / name, own, SWEEP))
    return settings, experiment, runs


def test_onnx_flavour_has_the_signature_and_is_registered(pushed):
    import mlflow

    settings, _, runs = pushed
    client = client_of(settings)
    (version,) = client.search_model_versions("name='layer'")
    assert version.run_id == runs[0]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(settings.tracking_uri)
    try:
        info = mlflow.models.get_model_info("models:/layer/1")
    finally:
        mlflow.set_tracking_uri(before)
    assert [(x.name, x.shape) for x in info.signature.inputs] == [("x", (-1, 4))]
    assert [(x.name, x.shape) for x in info.signature.outputs] == [("y", (-1, 2))]
    assert client.get_run(runs[0]).info.status == "FINISHED"


def test_registered_model_needs_the_flavour():
    with pytest.raises(ConfigError, match="registered_model"):
        TrackingSettings(registered_model="x")


def test_report_run_is_one_per_sweep_and_not_a_row_of_it(pushed, tmp_path):
    settings, experiment, runs = pushed
    files = [tmp_path / "report.html", tmp_path / "speedup.png"]
    for path in files:
        path.write_text("x")
    first = push_report(settings, experiment, SWEEP, files)
    assert push_report(settings, experiment, SWEEP, files) == first
    client = client_of(settings)
    assert {a.path for a in client.list_artifacts(first)} == {"report.html", "figures"}
    found = client.search_runs([experiment], f'tags.sweep = "{SWEEP}"')
    assert {run.info.run_id for run in found} == set(runs)


def test_report_run_without_a_store_warns(tmp_path, caplog):
    settings = TrackingSettings(uri="http://127.0.0.1:9", outputs=str(tmp_path))
    assert push_report(settings, "1", SWEEP, []) is None
    assert "no MLflow server" in caplog.text


def test_report_from_an_mlflow_experiment(pushed, tmp_path, capsys):
    settings, _, runs = pushed
    arguments = ["--mlflow", settings.tracking_uri, "--out", str(tmp_path), "--no-plots"]
    assert report.main([*arguments, "--where", "recipe=nncf_int8"]) == 0
    assert "1 experiment: 1 ok" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "records").iterdir()} >= set(runs)
    with pytest.raises(DataError, match="it has: Default, pqbench"):
        fetch_records(settings.tracking_uri, "nothing", tmp_path)


def test_compare_page_opens_with_backend_model_and_recipe():
    from pqbench.tracking.content import params

    records = [
        make_record(),
        make_record("resnet18", backend="ort", recipe=("prune",)),
        make_record(recipe=("nncf_int8",)),
    ]
    values = [params(record) for record in records]
    differing = sorted(key for key in set().union(*values) if len({v.get(key) for v in values}) > 1)
    assert differing[:3] == ["backend", "model", "recipe"]
