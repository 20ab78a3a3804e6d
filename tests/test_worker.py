"""The session process: real sessions, planted faults, and no process left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import psutil
import pytest
from session_backends import (
    CLASSES,
    node,
    write_numpy_model,
    write_onnx_model,
    write_split,
)

from pqbench.core.errors import (
    ConfigError,
    OutOfMemoryFailure,
    PlacementError,
    PqbenchError,
    StageTimeout,
    UnavailableError,
    WorkerCrash,
)
from pqbench.core.record import json_schema
from pqbench.core.split import PreparedSplit
from pqbench.experiment.measure_pair import SideSpec, run_cell
from pqbench.measure.protocol import MeasureProtocol
from pqbench.workers import forkserver
from pqbench.workers.forkserver import Forked, server
from pqbench.workers.session import SessionWorker

COUNT = 50
BRIEF = MeasureProtocol(
    batch_sizes=(1, 16),
    warmup_s=0.05,
    min_pairs=2,
    max_pairs=2,
    processes=1,
    quiet_wait_s=0.0,
    settle_s=0.0,
    block_s=0.2,
)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("data") / "split", count=COUNT)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numpy_model(tmp_path_factory.mktemp("models") / "numpy")


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def start(tmp_path: Path, model: Path, split: Path, timeout_s: float = 60, **options: object):
    return SessionWorker.start(
        node(**options), model, split, [1, 16], 1, tmp_path / "log.txt", timeout_s, "candidate"
    )


def gone(pid: int, within: float = 10.0, adopted: bool = False) -> bool:
    """Whether a process ends, and leaves no zombie but one that this process has adopted."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if adopted:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if not psutil.pid_exists(pid):
            return True
        time.sleep(0.02)
    return False


def test_worker_times_and_scores_one_session(tmp_path: Path, model: Path, split: Path) -> None:
    with start(tmp_path, model, split) as worker:
        block = worker.block(16, 0.05)
        count = worker.predict(tmp_path / "logits.npy", 16)
        placement = worker.placement()
        pid = worker.pid
    assert (block.ns > 0).all()
    assert block.ns.sum() / 1e9 <= block.wall_s
    assert block.cpu_s > 0
    assert count == COUNT
    assert placement["int8_share"] == 0.25
    images = PreparedSplit.load(split).feed(slice(None))["input"].reshape(COUNT, -1)[:, :64]
    expected = images @ np.load(model / "model.npy")
    logits = np.load(tmp_path / "logits.npy")
    assert logits.shape == (COUNT, CLASSES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert gone(pid)


def test_worker_runs_a_real_runtime(tmp_path: Path, split: Path) -> None:
    import onnxruntime as ort

    folder = write_onnx_model(tmp_path / "onnx")
    with start(tmp_path, folder, split, _target_="session_backends.OnnxBackend") as worker:
        worker.predict(tmp_path / "logits.npy", 16)
        cold = worker.cold()["cold"]
    images = PreparedSplit.load(split).feed(slice(None))
    expected = ort.InferenceSession(folder / "model.onnx").run(None, images)[0]
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-3, atol=1e-4)
    assert cold["import_s"] > 0
    assert cold["load_s"] > 0
    assert cold["first_inference_ms"] > 0


def test_worker_keeps_the_runtimes_chatter_out_of_its_answers(
    tmp_path: Path, model: Path, split: Path
) -> None:
    with start(tmp_path, model, split, fault="chatter") as worker:
        assert len(worker.block(1, 0, 3, 3).ns) == 3
    log = (tmp_path / "log.txt").read_text()
    assert "runtime says hello" in log
    assert "and a warning" in log


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("segfault", WorkerCrash, "SIGSEGV"),
        ("exit", WorkerCrash, "exit code 3"),
        ("killed", OutOfMemoryFailure, "SIGKILL"),
        ("memory", OutOfMemoryFailure, "out of memory"),
        ("exception", PqbenchError, "RuntimeError: the kernel refused"),
    ],
)
def test_worker_faults_have_names(
    fault: str, kind: type[PqbenchError], words: str, tmp_path: Path, model: Path, split: Path
) -> None:
    worker = start(tmp_path, model, split, fault=fault)
    with pytest.raises(kind, match=words) as caught, worker:
        worker.block(1, 0.05)
    assert type(caught.value) is kind
    assert "candidate" in str(caught.value) or kind is OutOfMemoryFailure
    assert caught.value.log == tmp_path / "log.txt"  # type: ignore[attr-defined]
    assert gone(worker.pid)


def test_worker_that_hangs_is_stopped_in_time(tmp_path: Path, model: Path, split: Path) -> None:
    worker = start(tmp_path, model, split, fault="hang")
    worker._timeout_s = 1.0
    began = time.monotonic()
    with pytest.raises(StageTimeout, match="no answer to 'block' within 1 s"), worker:
        worker.block(1, 0.05)
    assert time.monotonic() - began < 20
    assert gone(worker.pid)


def test_worker_names_a_silent_fallback(tmp_path: Path, model: Path, split: Path) -> None:
    with start(tmp_path, model, split, fault="fallback") as worker:
        with pytest.raises(PlacementError, match="3 of 5 nodes run on the CPU") as caught:
            worker.placement()
        assert caught.value.hint == "fix it"
        # An exception in a request leaves the session alive.
        worker.fault = ""
        assert worker.pid


def test_worker_of_an_unavailable_backend(tmp_path: Path, model: Path, split: Path) -> None:
    with pytest.raises(UnavailableError, match="no such thing here"):
        start(tmp_path, model, split, available=False)
    with pytest.raises(UnavailableError, match="fancy_runtime"):
        start(tmp_path, model, split, fault="load")


@pytest.mark.parametrize("options", [{"_target_": "no_such_module.Backend"}, {"no_such_option": 1}])
def test_worker_of_a_wrong_configuration(
    options: dict[str, object], tmp_path: Path, model: Path, split: Path
) -> None:
    with pytest.raises(ConfigError, match=r"backend: .*no_such_"):
        start(tmp_path, model, split, **options)


def test_worker_gives_the_name_to_a_backend_that_takes_it(
    tmp_path: Path, model: Path, split: Path
) -> None:
    with start(tmp_path, model, split, _target_="session_backends.BareBackend") as worker:
        assert worker.placement()["details"] == {"name": "test"}
        cold = worker.cold()
    assert cold["cold"]["compile_s"] is None
    assert "does not compile" in cold["reasons"]["cold.compile_s"]


def test_worker_refuses_a_session_that_does_not_inherit(
    tmp_path: Path, model: Path, split: Path
) -> None:
    with pytest.raises(ConfigError, match=r"load gave a object, .*pqbench\.Session"):
        start(tmp_path, model, split, _target_="session_backends.BareBackend", loaded="object")


def test_worker_weighs_a_model_of_200_mb_within_5_percent(
    tmp_path: Path, model: Path, split: Path
) -> None:
    with start(tmp_path, model, split, hold_mb=200) as worker:
        memory = worker.memory(16, 3)["memory"]
    assert memory["rss_model_mb"] == pytest.approx(200, rel=0.05)
    assert memory["rss_peak_mb"] >= memory["rss_runtime_mb"] + memory["rss_model_mb"]


def test_worker_counts_and_ends_its_children(tmp_path: Path, model: Path, split: Path) -> None:
    with start(tmp_path, model, split, child_mb=100) as worker:
        memory = worker.memory(16, 1)["memory"]
        children = [child.pid for child in psutil.Process(worker.pid).children()]
    assert len(children) == 1
    assert memory["rss_model_mb"] > 95
    assert "1 child" in memory["method"]
    assert gone(worker.pid)
    assert all(gone(pid) for pid in children)


PARENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pqbench.workers.forkserver import Forked, server
from pqbench.workers.session import SessionWorker
from session_backends import node
worker = SessionWorker.start(
    node(fault="hang"), Path(sys.argv[2]), Path(sys.argv[3]), [1], 1, Path(sys.argv[4]), 60
)
print(worker.pid, flush=True)
worker.block(1, 1000)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_worker_dies_with_its_parent_even_in_mid_call(
    tmp_path: Path, model: Path, split: Path
) -> None:
    from pqbench.workers.child import child_environment

    here = str(Path(__file__).parent / "helpers")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, here, str(model), str(split), str(tmp_path / "log.txt")],
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(1),
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        os.kill(parent.pid, signal.SIGKILL)
    assert gone(pid, adopted=True)


def test_run_cell_measures_both_sides_and_writes_its_files(
    tmp_path: Path, model: Path, split: Path
) -> None:
    result = run_cell(
        SideSpec(node(), model, split, "candidate"),
        SideSpec(node(work=200), model, split, "baseline"),
        BRIEF,
        tmp_path / "out",
        threads=1,
    )
    assert [x.batch_size for x in result.latency] == [1, 16]
    assert all(s.ratio > 2 for s in result.speedup)
    assert result.profile is None
    assert any("INT8 in part: 1 of 4" in note for note in result.notes)
    assert "energy.joules_per_sample" in result.reasons or result.energy.source
    samples = pd.read_parquet(tmp_path / "out" / "latency.parquet")
    assert set(samples["side"]) == {"candidate", "baseline"}
    assert np.load(tmp_path / "out" / "logits.npy").shape == (COUNT, CLASSES)
    schema = json_schema()["properties"]
    for name, values in (("latency", result.latency), ("speedup", result.speedup)):
        jsonschema.validate([dataclasses.asdict(v) for v in values], schema[name])
    for name in ("cold", "memory", "energy"):
        jsonschema.validate(dataclasses.asdict(getattr(result, name)), schema[name])
    jsonschema.validate(dataclasses.asdict(result.placement), schema["placement"])


def test_run_cell_times_as_many_starts_as_the_protocol_says(
    tmp_path: Path, model: Path, split: Path
) -> None:
    protocol = dataclasses.replace(
        BRIEF, batch_sizes=(1,), score=False, processes=3, max_pairs=3, max_foreign_share=1.0
    )  # no pair is set aside, whatever else runs: starts are counted here
    result = run_cell(
        SideSpec(node(), model, split, "candidate"),
        SideSpec(node(work=200), model, split, "baseline"),
        protocol,
        tmp_path / "out",
        threads=1,
    )
    assert result.latency[0].processes == 3
    assert len(result.speedup[0].start_ratios) == 3
    assert min(result.speedup[0].start_ratios) > 2
    samples = pd.read_parquet(tmp_path / "out" / "latency.parquet")
    assert set(samples["process"]) == {0, 1, 2}
    assert samples.groupby("process")["side"].nunique().eq(2).all()
    logs = {path.name for path in (tmp_path / "out" / "logs").iterdir()}
    assert {"weigh_candidate.log", "candidate.log", "start0_candidate.log"} <= logs
    assert {"baseline.log", "start1_baseline.log"} <= logs
    began = samples.drop_duplicates("process")["side"].tolist()
    assert began[0] != began[1]  # who begins is balanced between the starts
    assert began[0] == began[2]


@pytest.mark.parametrize("runs_to_load", [False, True])
def test_run_cell_loads_one_side_after_the_other_where_loading_runs_the_model(
    tmp_path: Path, model: Path, split: Path, runs_to_load: bool
) -> None:
    backend = {
        "_target_": node()["_target_"].replace("NumpyBackend", "SlowLoadBackend"),
        "notes": str(tmp_path / "notes"),
        "runs_to_load": runs_to_load,
    }
    protocol = dataclasses.replace(
        BRIEF, batch_sizes=(1,), score=False, weigh=False, processes=1, max_pairs=3
    )
    sides = [SideSpec(backend, model, split, name) for name in ("candidate", "baseline")]
    run_cell(*sides, protocol, tmp_path / "out", threads=1)
    first, second = sorted(
        tuple(map(float, line.split())) for line in (tmp_path / "notes").read_text().splitlines()
    )
    assert (second[0] >= first[1]) == runs_to_load


def test_run_cell_without_weighing_starts_no_more_and_says_what_is_null(
    tmp_path: Path, model: Path, split: Path
) -> None:
    result = run_cell(
        SideSpec(node(), model, split, "candidate"),
        None,
        dataclasses.replace(BRIEF, batch_sizes=(1,), score=False, weigh=False),
        tmp_path / "out",
        threads=1,
    )
    assert result.latency[0].p50_ms > 0
    assert result.device == "cpu"
    assert result.cold.load_s is None
    assert result.memory.rss_peak_mb is None
    nulls = {f"cold.{k}" for k, v in vars(result.cold).items() if v is None}
    nulls |= {f"memory.{k}" for k, v in vars(result.memory).items() if v is None}
    assert "memory.rss_working_mb" in nulls
    assert {result.reasons[name] for name in nulls} == {"protocol.weigh=false"}
    assert not list((tmp_path / "out" / "logs").glob("weigh_*"))


def test_run_cell_prints_no_reason_that_disagrees_with_the_ratio(
    tmp_path: Path, model: Path, split: Path
) -> None:
    result = run_cell(
        SideSpec(node(nap_s=0.004, profile_factor=0.7), model, split, "candidate"),
        SideSpec(node(nap_s=0.003, profile_factor=1.3), model, split, "baseline"),
        dataclasses.replace(BRIEF, batch_sizes=(1,), score=False),
        tmp_path / "out",
        threads=1,
    )
    assert result.speedup[0].ratio < 1
    assert result.profile is not None
    assert sum(result.profile.baseline_ms.values()) > sum(result.profile.ms.values())
    assert result.profile.explanation == ""
    assert "disagree with the timed ratio" in result.reasons["profile.explanation"]


def test_run_cell_profiles_an_int8_model_that_is_not_faster(
    tmp_path: Path, model: Path, split: Path
) -> None:
    result = run_cell(
        SideSpec(node(nap_s=0.004), model, split, "candidate"),
        SideSpec(node(nap_s=0.001), model, split, "baseline"),
        dataclasses.replace(BRIEF, batch_sizes=(1,), score=False),
        tmp_path / "out",
        threads=1,
    )
    assert result.logits is None
    assert result.reasons["accuracy"] == "protocol.score=false"
    assert result.profile is not None
    assert list(result.profile.ms) == ["matmul", "relu"]
    assert "more in matmul" in result.profile.explanation
    assert "2 x Conv" in result.profile.explanation


@pytest.mark.parametrize("asked", [False, True])
def test_run_cell_of_a_session_without_a_profiler_says_so(
    asked: bool, tmp_path: Path, model: Path, split: Path
) -> None:
    bare = node("BareBackend", work=1 if asked else 50)
    result = run_cell(
        SideSpec(bare, model, split, "candidate"),
        SideSpec(node("BareBackend", work=50 if asked else 1), model, split, "baseline"),
        dataclasses.replace(BRIEF, batch_sizes=(1,), score=False, profile=asked),
        tmp_path / "out",
        threads=1,
    )
    assert result.profile is None
    assert result.reasons["profile"] == "this backend's sessions have no profiler"


def test_run_cell_that_crashes_names_the_side_and_frees_the_lock(
    tmp_path: Path, model: Path, split: Path
) -> None:
    from pqbench.machine import device_lock as lock

    before = set(psutil.Process().children())  # a fork server of another test, say
    with pytest.raises(WorkerCrash, match=r"baseline died .*SIGSEGV") as caught:
        run_cell(
            SideSpec(node(), model, split, "candidate"),
            SideSpec(node(fault="segfault"), model, split, "baseline"),
            BRIEF,
            tmp_path / "out",
            threads=1,
        )
    assert caught.value.log == tmp_path / "out" / "logs" / "baseline.log"  # type: ignore[attr-defined]
    after = set(psutil.Process().children()) - before  # a guard ends when what it guards has
    assert all(gone(child.pid, adopted=True) for child in after)
    with lock.timing():
        pass


def served_threads() -> int:
    """Threads of the fork server that another test of this process may have started."""
    return forkserver._SERVER.threads or 1


def forked(worker: SessionWorker) -> bool:
    return any("forkserver" in part for part in psutil.Process(worker.pid).cmdline())


def test_session_on_the_cpu_is_a_fork_and_a_weighed_one_a_fresh_interpreter(
    tmp_path: Path, split: Path
) -> None:
    folder = write_onnx_model(tmp_path / "onnx")
    backend = {"_target_": "pqbench.backends.ort.backend.OrtBackend", "name": "ort", "threads": 1}
    outputs = []
    for weighed in (False, True):
        log = tmp_path / f"{weighed}.log"
        with SessionWorker.start(
            backend, folder, split, [1, 16], served_threads(), log, 60, weighed=weighed
        ) as worker:
            assert forked(worker) != weighed
            assert worker.predict(tmp_path / f"{weighed}.npy", 16) == COUNT
        outputs.append(np.load(tmp_path / f"{weighed}.npy"))
    np.testing.assert_array_equal(*outputs)


def write_frozen(path: str) -> None:
    before = gc.get_freeze_count()
    Path(path).write_text(f"{before} {sum(len(gc.get_objects(i)) for i in range(3))}")


def test_collection_in_a_fork_visits_nothing_of_what_the_server_imported(tmp_path: Path) -> None:
    threads = served_threads()
    context = server(threads)
    assert context is not None
    child = Forked(context, write_frozen, (str(tmp_path / "count"),), tmp_path / "log.txt", threads)
    child.wait(60)
    frozen, visited = map(int, (tmp_path / "count").read_text().split())
    assert frozen > 100_000  # torch's
    assert visited < frozen / 4  # of this file and of what it imports


def test_worker_that_may_leave_ends_by_itself_while_another_is_asked(
    tmp_path: Path, model: Path, split: Path
) -> None:
    with start(tmp_path, model, split) as one, start(tmp_path, model, split) as two:
        one.leave()
        assert psutil.Process(one.pid).wait(10) in (0, None)
        assert len(two.block(1, 0.01).ns) > 0
        one.leave()
    assert gone(one.pid)
    assert gone(two.pid)


def test_fork_server_ends_without_a_word() -> None:
    code = (
        "from pqbench.workers.forkserver import server, wait_until_idle\n"
        "assert server(1) is not None\n"
        "wait_until_idle()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
