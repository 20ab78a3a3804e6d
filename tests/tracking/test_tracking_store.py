import http.server
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from record_factory import make_failed, make_record

from pqbench import sync
from pqbench.core.errors import DataError
from pqbench.tracking import journal, store
from pqbench.tracking import push as pushing
from pqbench.tracking.push import push, save_view
from pqbench.tracking.settings import TrackingSettings

SWEEP = "2026-11-22 10:00 it's"


def save(record, folder: Path) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(b"weights")
    (folder / "logs").mkdir()
    (folder / "logs" / "stage.log").write_text("what went wrong")
    (folder / "predictions.parquet").write_bytes(b"PAR1")
    record.save(folder)
    return folder


@pytest.fixture
def settings(empty_store, tmp_path) -> TrackingSettings:
    outputs = tmp_path / "out puts #1%20?"  # what a URI takes for something else
    shutil.copytree(empty_store, outputs)
    return TrackingSettings(outputs=str(outputs))


@pytest.fixture
def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def client_of(settings):
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri)


def runs_of(settings):
    client = client_of(settings)
    experiment = client.get_experiment_by_name(settings.experiment)
    return client.search_runs([experiment.experiment_id]) if experiment else []


def files_of(settings, run_id, path=None):
    found = set()
    for info in client_of(settings).list_artifacts(run_id, path):
        found |= files_of(settings, run_id, info.path) if info.is_dir else {info.path}
    return found


def test_import_stays_light():
    code = (
        "import sys, pqbench.tracking.push, pqbench.sync, pqbench.report.__main__;"
        "print({'mlflow', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_push_logs_the_whole_record(settings, tmp_path):
    record = make_record(recipe=("nncf_int8",), speedup=1.9)
    record.lineage.append({"action": "finetune", "details": {"loss": [0.7, 0.5]}})
    folder = save(record, tmp_path / "job")
    experiment_id = store.ensure_store(settings)
    run_id = push(record, folder, settings, SWEEP)
    run = client_of(settings).get_run(run_id)
    assert run.info.experiment_id == experiment_id
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == round(1000 * record.seconds)
    assert run.data.metrics["speedup/b1"] == 1.9
    curve = client_of(settings).get_metric_history(run_id, "training/finetune/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.7), (2, 0.5)]
    assert run.data.params["step.nncf_int8.preset"] == "mixed"
    assert run.data.tags["sweep"] == SWEEP
    assert run.data.tags["fingerprint"] == record.fingerprint
    assert run.inputs.dataset_inputs[0].dataset.name == "elpv"
    assert files_of(settings, run_id) == {
        "record.json", "config.yaml", "predictions.parquet", "model/model.onnx",
    }  # fmt: skip
    assert (settings.folder / "mlartifacts" / run_id).is_dir()
    assert journal.pushed(folder)[0].run_id == run_id


def test_push_failed_experiment_is_a_failed_run_with_its_log(settings, tmp_path):
    record = make_failed()
    run_id = push(record, save(record, tmp_path / "job"), settings, SWEEP)
    run = client_of(settings).get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["status"] == "unavailable"
    assert "no driver" in run.data.tags["error"]
    assert run.data.metrics == {"stages/total_s": record.seconds}
    assert "logs/stage.log" in files_of(settings, run_id)


def test_push_without_model_files(settings, tmp_path):
    record = make_record()
    folder = save(record, tmp_path / "job")
    run_id = push(record, folder, replace(settings, log_model=False), None)
    assert not any(path.startswith("model") for path in files_of(settings, run_id))


def test_push_missing_file_is_told_and_the_rest_logged(settings, tmp_path, caplog):
    record = make_record()
    record.files["latency"] = "latency.parquet"
    run_id = push(record, save(record, tmp_path / "job"), settings, None)
    assert "latency.parquet" in caplog.text
    assert client_of(settings).get_run(run_id).info.status == "FINISHED"


def test_push_same_record_once_per_sweep(settings, tmp_path):
    record = make_record()
    folder = save(record, tmp_path / "job")
    first = push(record, folder, settings, SWEEP)
    assert push(record, folder, settings, SWEEP) == first
    (folder / journal.JOURNAL).unlink()  # the store itself knows
    assert push(record, folder, settings, SWEEP) == first
    other = push(record, folder, settings, "another")
    assert other != first
    assert len(runs_of(settings)) == 2


def test_push_of_a_shared_baseline_by_two_jobs_at_once_is_one_run(settings, tmp_path, monkeypatch):
    (settings.folder / "cache" / "locks").mkdir(parents=True)
    record = make_record()
    folders = [save(record, tmp_path / name) for name in ("one", "two")]
    find = pushing._find

    def find_slowly(*arguments):
        found = find(*arguments)
        time.sleep(0.5)  # the other job asks meanwhile
        return found

    monkeypatch.setattr(pushing, "_find", find_slowly)
    with ThreadPoolExecutor(2) as pool:
        pushed = pool.map(lambda folder: push(record, folder, settings, SWEEP), folders)
    assert len(set(pushed)) == len(runs_of(settings)) == 1


def test_push_run_in_the_trash_stays_there(settings, tmp_path):
    record = make_record()
    folder = save(record, tmp_path / "job")
    run_id = push(record, folder, settings, SWEEP)
    client_of(settings).delete_run(run_id)
    assert push(record, folder, settings, SWEEP) == run_id
    assert runs_of(settings) == []


def test_push_changed_record_is_a_new_run(settings, tmp_path):
    record = make_record()
    folder = save(record, tmp_path / "job")
    first = push(record, folder, settings, SWEEP)
    record.notes.append("measured again")
    record.save(folder)
    assert push(record, folder, settings, SWEEP) != first


def test_push_that_died_half_way_is_completed_not_doubled(settings, tmp_path, monkeypatch):
    record = make_record(recipe=("nncf_int8",))
    folder = save(record, tmp_path / "job")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pushing, "_log_files", die)
        with pytest.raises(KeyboardInterrupt):
            push(record, folder, settings, SWEEP)
    assert runs_of(settings)[0].info.status == "RUNNING"
    assert journal.pushed(folder) == []
    run_id = push(record, folder, settings, SWEEP)
    (run,) = runs_of(settings)
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    history = client_of(settings).get_metric_history(run_id, "accuracy/top1")
    assert len(history) == 1


def test_push_without_a_record_on_disk_is_refused(settings, tmp_path):
    with pytest.raises(DataError, match="no record to track"):
        push(make_record(), tmp_path, settings, None)


def test_push_disabled_touches_nothing(tmp_path):
    settings = TrackingSettings(enabled=False, outputs=str(tmp_path / "outputs"))
    folder = save(make_record(), tmp_path / "job")
    assert store.ensure_store(settings) is None
    assert push(make_record(), folder, settings, None) is None
    assert not settings.folder.exists()
    assert journal.read(folder) == []


def test_push_leaves_the_environment_as_it_was(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    record = make_record()
    push(record, save(record, tmp_path / "job"), settings, None)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "4"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_experiment_in_the_trash_is_told_and_kept_on_disk(settings, tmp_path, caplog):
    client_of(settings).delete_experiment(store.ensure_store(settings))
    record = make_record()
    folder = save(record, tmp_path / "job")
    assert push(record, folder, settings, None) is None
    assert "in the trash" in caplog.text
    assert journal.read(folder)[0].run_id is None


def test_server_down_costs_a_warning_and_sync_pushes_once(
    settings, tmp_path, free_port, caplog, capsys
):
    server = replace(settings, uri=f"http://127.0.0.1:{free_port}", timeout_s=1)
    folders = []
    for i, record in enumerate((make_record(), make_record(recipe=("nncf_int8",)))):
        record.config["tracking"] = {"uri": server.uri, "timeout_s": 1}
        folders.append(save(record, tmp_path / "sweep" / str(i)))
        assert store.ensure_store(server) is None
        assert push(record, folders[-1], server, SWEEP) is None
    assert f"no MLflow server at {server.uri}" in caplog.text
    pending = journal.read(folders[0])[0]
    assert pending.run_id is None
    assert "no MLflow server" in pending.reason

    sweep = str(tmp_path / "sweep")
    assert f"python -m pqbench.sync {folders[0]} --uri {server.uri}" in caplog.text
    assert sync.main([sweep, "--uri", server.uri]) == 1
    assert capsys.readouterr().out.strip() == "2 failed"
    there = ["--uri", settings.tracking_uri]
    assert sync.main([sweep, *there]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == "2 pushed"
    assert f"some were meant for {server.uri}" in printed.err
    assert sync.main([sweep, *there]) == 0
    assert capsys.readouterr().out.strip() == "2 there already"
    assert {run.data.tags["sweep"] for run in runs_of(settings)} == {SWEEP}
    assert len(runs_of(settings)) == 2


def test_database_that_is_down_costs_a_warning_and_not_minutes(tmp_path, free_port, caplog):
    uri = f"postgresql://user:secret@127.0.0.1:{free_port}/mlflow"
    assert store.ensure_store(TrackingSettings(uri=uri, outputs=str(tmp_path))) is None
    assert f"no database at postgresql://***@127.0.0.1:{free_port}" in caplog.text
    assert "results stay on disk" in caplog.text


def test_missing_database_driver_is_told_and_no_error(tmp_path, caplog):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        uri = f"mysql+mysqldb://user@127.0.0.1:{listening.getsockname()[1]}/mlflow"
        assert store.ensure_store(TrackingSettings(uri=uri, outputs=str(tmp_path))) is None
    assert "No module named 'MySQLdb'; results stay on disk" in caplog.text


def test_server_that_hangs_is_given_up(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()  # accepts, never answers
        uri = f"http://127.0.0.1:{s.getsockname()[1]}"
        settings = TrackingSettings(uri=uri, timeout_s=0.2, outputs=str(tmp_path))
        assert "no MLflow server" in (store.unreachable(settings) or "")


@pytest.mark.parametrize("way", ["400", "500", "closes", "hangs"])
def test_server_that_fails_after_its_health_check_is_no_error(tmp_path, caplog, way):
    end = threading.Event()

    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/health":
                self.send_response(200)
                self.end_headers()
            elif way == "hangs":
                end.wait()
            elif way == "closes":
                self.connection.close()
            else:
                self.send_response(int(way))
                self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f"http://127.0.0.1:{server.server_port}"
        settings = TrackingSettings(uri=uri, timeout_s=1, outputs=str(tmp_path))
        record = make_record()
        folder = save(record, tmp_path / "job")
        with caplog.at_level(logging.WARNING):
            assert push(record, folder, settings, None) is None
    finally:
        end.set()
        server.shutdown()
        server.server_close()
    assert "not tracked" in caplog.text
    assert journal.read(folder)[0].reason


def test_sync_skips_records_that_are_not_to_be_tracked(tmp_path, capsys):
    record = make_record()
    record.config["tracking"] = {"enabled": False}
    save(record, tmp_path / "job")
    assert sync.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == "1 tracking off"
    assert sync.main([str(tmp_path / "job" / "logs")]) == 2
    assert sync.main([str(tmp_path / "nowhere")]) == 2


def test_where_to_push_comes_from_the_command_and_not_from_a_record(
    tmp_path, monkeypatch, capsys, free_port
):
    monkeypatch.chdir(tmp_path)
    record = make_record()
    stranger = f"sqlite:///{tmp_path / 'theirs.db'}"
    record.config["tracking"] = {"uri": stranger, "experiment": "theirs", "artifact_root": "/x"}
    record.config["outputs"] = str(tmp_path / "theirs")
    folder = save(record, tmp_path / "job")
    entry = journal.Entry(stranger, "theirs", "s", journal.record_sha256(folder), "/x")
    journal.mark(folder, entry)
    assert sync.main([str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == "1 pushed"
    assert f"some were meant for {stranger}" in printed.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["job", "outputs"]
    mine = TrackingSettings(outputs="outputs")
    assert [run.data.tags["sweep"] for run in runs_of(mine)] == ["s"]


def test_link_in_a_strangers_record_is_not_uploaded(settings, tmp_path, caplog):
    (tmp_path / "key").write_text("private")
    record = make_record()
    folder = save(record, tmp_path / "job")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights").symlink_to(tmp_path / "key")
    assert push(record, folder, settings, None) is not None
    assert "not pushed" in caplog.text
    uploaded = [p for p in Path(settings.outputs).rglob("*") if p.is_file()]
    assert not [p for p in uploaded if b"private" in p.read_bytes()]


def test_processes_meeting_in_a_new_store_do_not_break_it(tmp_path):
    code = (
        "import sys; from pqbench.tracking.settings import TrackingSettings;"
        "from pqbench.tracking.store import ensure_store;"
        "print(ensure_store(TrackingSettings(outputs=sys.argv[1])))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    jobs = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    answers = {job.communicate(timeout=100)[0].strip() for job in jobs}
    assert answers == {"1"}


def test_store_whose_maker_was_killed_half_way_is_made_anew(tmp_path):
    code = (
        "import sys; from pqbench.tracking.settings import TrackingSettings;"
        "from pqbench.tracking.store import ensure_store;"
        "ensure_store(TrackingSettings(outputs=sys.argv[1]))"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2]
    )
    half_made = tmp_path / ".mlflow.db.new"
    deadline = time.monotonic() + 100
    while not (half_made.exists() and half_made.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert maker.poll() is None
    maker.kill()
    maker.wait()
    assert half_made.exists()
    assert not (tmp_path / "mlflow.db").exists()
    settings = TrackingSettings(outputs=str(tmp_path))
    assert store.ensure_store(settings) == "1"
    record = make_record()
    assert push(record, save(record, tmp_path / "job"), settings, SWEEP)
    assert not half_made.exists()


def test_save_view_is_kept_with_the_experiment(settings):
    experiment_id = store.ensure_store(settings)
    key = save_view(settings, experiment_id, [make_record()], "s1")
    tags = client_of(settings).get_experiment(experiment_id).tags
    assert json.loads(tags[f"mlflow.sharedViewState.{key}"])["searchFilter"] == 'tags.sweep = "s1"'


def test_journal_keeps_one_entry_per_place(tmp_path):
    make_record().save(tmp_path)
    sha = journal.record_sha256(tmp_path)
    entry = journal.Entry("sqlite:///a", "pqbench", "s", sha, reason="down")
    journal.mark(tmp_path, entry)
    journal.mark(tmp_path, replace(entry, sweep="t"))
    assert journal.pushed(tmp_path) == []
    journal.mark(tmp_path, replace(entry, run_id="1", reason=""))
    assert [e.run_id for e in journal.pushed(tmp_path)] == ["1"]
    assert len(journal.read(tmp_path)) == 2
    (tmp_path / journal.JOURNAL).write_text("{")
    assert journal.read(tmp_path) == []  # set aside: the store itself is asked


@pytest.mark.parametrize("name", ["alembic", "mlflow", "mlflow.store.db.utils"])
def test_store_is_opened_without_the_libraries_chatter(name, settings):
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.INFO)  # as MLflow sets its own when it is imported
    try:
        assert store.ensure_store(settings) is not None
        assert logger.level == logging.WARNING
    finally:
        logger.setLevel(before)
