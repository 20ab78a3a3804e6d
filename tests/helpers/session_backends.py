"""Small backends and inputs for tests of the measuring floor: real sessions, and planted faults."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pqbench.core.artifact import Artifact, Representation, TensorSpec
from pqbench.core.backend import Availability, Backend, Placement, Session
from pqbench.core.errors import PlacementError
from pqbench.core.files import write_json

FEATURES = 64
CLASSES = 7


class NumpySession(Session):
    nap_s = 0.0

    def __init__(self, weights: np.ndarray, fault: str, work: int, options: dict[str, Any]) -> None:
        self.weights = weights
        self.fault = fault
        self.work = work
        self.options = options
        self.calls = 0
        self.closed = False
        self.held: np.ndarray | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.profile_factor = options.get("profile_factor", 1.0)
        self.nap_s = options.get("nap_s", 0.0)

    def run(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        self.calls += 1
        if self.fault and self.calls > 1:
            misbehave(self.fault)
        x = batch["input"].reshape(len(batch["input"]), -1)[:, :FEATURES]
        for _ in range(self.work):
            out = x @ self.weights
        if self.nap_s:  # lasts as long on a busy machine
            time.sleep(self.nap_s)
        return [out.astype(np.float32)]

    def placement(self) -> Placement:
        if self.fault == "fallback":
            raise PlacementError("asked for cuda, 3 of 5 nodes run on the CPU", hint="fix it")
        return Placement({"cpu": 1}, "f32", 4, self.options.get("integer"), {"Conv": 2}, threads=1)

    def profile(self, batch: Mapping[str, np.ndarray], runs: int) -> Mapping[str, float]:
        took = []
        for _ in range(20 * runs):
            start = time.perf_counter()
            self.run(batch)
            took.append((time.perf_counter() - start) * 1e3)
        ms = float(np.median(took)) * self.profile_factor
        return {"relu": 0.01 * ms, "matmul": 0.99 * ms}

    def close(self) -> None:
        self.closed = True


def misbehave(fault: str) -> None:
    if fault == "segfault":
        ctypes.string_at(0)
    elif fault == "exit":
        os._exit(3)
    elif fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hang":
        time.sleep(1000)
    elif fault == "exception":
        raise RuntimeError("the kernel refused\nsecond line")
    elif fault == "memory":
        raise MemoryError
    elif fault == "chatter":
        print("runtime says hello")
        sys.stderr.write("and a warning\n")


class NumpyBackend(Backend):
    loads: ClassVar[tuple[Representation, ...]] = ("onnx",)

    def __init__(
        self,
        fault: str = "",
        work: int = 1,
        hold_mb: int = 0,
        child_mb: int = 0,
        available: bool = True,
        integer: int | None = 1,
        threads: int = 1,
        profile_factor: float = 1.0,
        nap_s: float = 0.0,
    ) -> None:
        self.fault, self.work, self.available = fault, work, available
        self.hold_mb, self.child_mb = hold_mb, child_mb
        self.options = {"integer": integer, "profile_factor": profile_factor, "nap_s": nap_s}

    def availability(self) -> Availability:
        return Availability(self.available, "cpu", {}, "no such thing here", "buy one")

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> NumpySession:
        if self.fault == "load":
            raise ImportError("No module named 'fancy_runtime'")
        session = NumpySession(np.load(artifact.path), self.fault, self.work, self.options)
        session.held = np.ones(self.hold_mb * 2**20, np.uint8)
        if self.child_mb:
            code = f"x = b'1' * ({self.child_mb} << 20); print(len(x), flush=True); input()"
            session.child = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert session.child.stdout is not None
            session.child.stdout.readline()
        return session


class SlowLoadBackend(NumpyBackend):
    """Loads for a while, and notes from when to when: a line of seconds in a file of its own."""

    def __init__(self, notes: str, runs_to_load: bool) -> None:
        super().__init__()
        self.notes, self.runs_to_load = notes, runs_to_load

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> NumpySession:
        began = time.monotonic()
        time.sleep(1.0)
        session = super().load(artifact, batch_sizes)
        with Path(self.notes).open("a") as file:
            file.write(f"{began} {time.monotonic()}\n")
        return session


class BareSession(Session):
    """What the contract asks for, and nothing else."""

    def __init__(self, backend: BareBackend, weights: np.ndarray) -> None:
        self.backend = backend
        self.weights = weights

    def run(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        x = batch["input"].reshape(len(batch["input"]), -1)[:, :FEATURES]
        for _ in range(self.backend.work):
            out = x @ self.weights
        return [out.astype(np.float32)]

    def placement(self) -> Placement:
        return Placement({"cpu": 1}, "f32", 4, 4, details={"name": self.backend.name})


class BareBackend(Backend):
    """What the contract asks for, and a name."""

    loads: ClassVar[tuple[Representation, ...]] = ("onnx",)

    def __init__(self, name: str, work: int = 1, loaded: str = "session") -> None:
        self.name = name
        self.work = work
        self.loaded = loaded

    def availability(self) -> Availability:
        return Availability(True, "cpu", {})

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> Session:
        session = BareSession(self, np.load(artifact.path))
        return session if self.loaded == "session" else object()  # type: ignore[return-value]


class OnnxBackend(Backend):
    """ONNX Runtime on the CPU, without anything around it."""

    loads: ClassVar[tuple[Representation, ...]] = ("onnx",)
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def availability(self) -> Availability:
        return Availability(True, "cpu", {})

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> OnnxSession:
        return OnnxSession(artifact, self.threads)


class OnnxSession(Session):
    def __init__(self, artifact: Artifact, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(
            artifact.path, options, providers=["CPUExecutionProvider"]
        )

    def run(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self.session.run(None, dict(batch))
        return outputs

    def placement(self) -> Placement:
        return Placement({"CPUExecutionProvider": 1}, "f32", 1, 0)

    def close(self) -> None:
        del self.session


def write_split(folder: Path, count: int = 50, size: int = 8) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    np.save(folder / "input.npy", rng.integers(0, 256, (count, size, size, 3), np.uint8))
    np.save(folder / "labels.npy", rng.integers(0, CLASSES, count))
    write_json(
        folder / "manifest.json",
        {
            "name": "val",
            "count": count,
            "classes": [f"class {i}" for i in range(CLASSES)],
            "arrays": ["input"],
            "normalization": {"input": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}},
            "sources": [f"{i:064x}" for i in range(count)],
            "notes": [],
            "content": "0" * 64,
        },
    )
    return folder


def write_numpy_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    weights = np.random.default_rng(1).normal(size=(FEATURES, CLASSES)).astype(np.float32)
    np.save(folder / "model.npy", weights)
    spec = TensorSpec("input", (None, 3, 8, 8))
    Artifact("onnx", folder, "model.npy", (spec,), ("logits",)).save()
    return folder


def write_onnx_model(folder: Path, width: int = 16) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(width, 3, 3, 3)).astype(np.float32)
    head = rng.normal(size=(width, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "kernel"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "head"], ["logits"]),
        ],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(head, "head")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    spec = TensorSpec("input", (None, 3, 8, 8))
    Artifact("onnx", folder, "model.onnx", (spec,), ("logits",)).save()
    return folder


def node(cls: str = "NumpyBackend", **options: Any) -> dict[str, Any]:
    return {"_target_": f"session_backends.{cls}", "name": "test", **options}
