"""A weighed session against a bare process that only loads and runs the same model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import bare_session
import numpy as np
import pytest
from session_backends import write_split

from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.split import PreparedSplit
from pqbench.export.openvino_convert import convert_openvino
from pqbench.nets.checkpoint import build_network, save_network
from pqbench.workers.child import child_environment
from pqbench.workers.forkserver import Forked, server, wait_until_idle
from pqbench.workers.session import SessionWorker

SIDE = 64
BUILDER = {"_target_": "torchvision.models.squeezenet1_1"}
TORCH = {"_target_": "pqbench.backends.torch.backend.TorchBackend", "threads": 1}
ORT = {"_target_": "pqbench.backends.ort.backend.OrtBackend", "threads": 1}
OPENVINO = {"_target_": "pqbench.backends.openvino.backend.OpenvinoBackend", "threads": 1}

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's high-water mark"
)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("data") / "split", count=20, size=SIDE)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    spec = TensorSpec("input", (None, 3, SIDE, SIDE))
    folder = tmp_path_factory.mktemp("torch")
    return save_network(build_network(BUILDER), BUILDER, folder, (spec,), ("logits",), ())


@pytest.fixture(scope="module")
def exported(network: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from pqbench.export import export_onnx

    example = {"input": np.zeros((2, 3, SIDE, SIDE), np.float32)}
    return export_onnx(network, tmp_path_factory.mktemp("onnx"), example)


@pytest.fixture(scope="module")
def converted(exported: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert_openvino(exported, tmp_path_factory.mktemp("openvino"))


def weighed(backend: dict[str, object], artifact: Artifact, split: Path, log: Path) -> dict:
    with SessionWorker.launch(
        backend, artifact.folder, split, [1], 1, log, 120, pool_mb=0.0, weighed=True
    ) as worker:
        memory = worker.opened().memory(1, 3)["memory"]
    assert memory["harness_mb"] > 5  # Hydra and this package are there, and are taken off
    assert memory["batch_size"] == 1
    return memory


def bare(runtime: str, model: str, split: Path, folder: Path) -> float:
    array = folder / "input.npy"
    np.save(array, PreparedSplit.load(split).feed(slice(0, 1))["input"])
    command = [sys.executable, bare_session.__file__, runtime, model, str(array), "1"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=child_environment(1)
    )
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize(
    ("runtime", "backend"), [("onnxruntime", ORT), ("openvino", OPENVINO), ("torch", TORCH)]
)
def test_memory_is_that_of_a_bare_process_within_5_percent(
    tmp_path: Path,
    network: Artifact,
    exported: Artifact,
    converted: Artifact,
    split: Path,
    runtime: str,
    backend: dict[str, object],
) -> None:
    artifact = {"torch": network, "openvino": converted, "onnxruntime": exported}[runtime]
    model = str(artifact.path)
    if runtime == "torch":
        model = f"torchvision.models:squeezenet1_1,{model}"
    ours = weighed(backend, artifact, split, tmp_path / "log.txt")
    assert ours["rss_peak_mb"] == pytest.approx(bare(runtime, model, split, tmp_path), rel=0.05)


def test_weighed_runtime_shares_no_import_of_another(
    tmp_path: Path, exported: Artifact, split: Path
) -> None:
    with SessionWorker.launch(
        ORT, exported.folder, split, [1], 1, tmp_path / "log.txt", 120, pool_mb=0.0, weighed=True
    ) as worker:
        worker.opened().block(1, 0.01)
        maps = Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8")
    assert "onnxruntime" in maps
    assert "torch" not in maps


def test_torch_sessions_are_forks_of_a_server_without_threads(
    tmp_path: Path, network: Artifact, split: Path
) -> None:
    from multiprocessing import forkserver

    if server(1) is None:
        pytest.skip("there is no fork server for one thread in this process")
    wait_until_idle()
    pid = forkserver._forkserver._forkserver_pid
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    layouts = []
    for _ in range(2):
        with SessionWorker.start(
            TORCH, network.folder, split, [1, 4], 1, tmp_path / "log.txt", 120
        ) as worker:
            assert isinstance(worker._process, Forked)
            assert worker.cold()["denormals_flushed"]
            assert worker.block(4, 0.05).median_ms > 0
            maps = Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8")
            layouts.append([line.split()[0] for line in maps.splitlines() if "rw-p" in line])
    assert layouts[0] != layouts[1]


def test_server_that_cannot_begin_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'forkserver' in ' '.join(sys.orig_argv[:4]):\n    os._exit(7)\n"
    )
    code = (
        "import pathlib; from pqbench.core.errors import WorkerCrash;"
        "from pqbench.workers.forkserver import Forked, server\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        Forked(server(1), print, (), pathlib.Path('log'), 1)\n"
        "    except WorkerCrash as error:\n"
        "        print(error)\n"
    )
    (tmp_path / "try.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "try.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("the server that starts workers has ended, or could not begin")
