"""Doubles of TensorRT 10, 11 and RTX, made from the names that the real bindings have.

``tensorrt_api.json`` was read from the bindings themselves. A double has these members and no
others: a call of one that a version removed raises AttributeError, as it would with the real thing.
Behaviour is the least that lets the whole path run on the host: an "engine" that adds up its input.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

API = json.loads((Path(__file__).parent / "tensorrt_api.json").read_text(encoding="utf-8"))
VERSIONS = tuple(API)
SIDE = 4
CLASSES = 3


class Double:
    """An object of one class of the bindings: its members, some of which do something."""

    def __init__(self, members: frozenset[str], kind: str, behaviour: dict[str, Any]) -> None:
        unknown = set(behaviour) - members
        if unknown:
            raise AttributeError(f"this version's {kind} has no {sorted(unknown)}")
        object.__setattr__(self, "_members", members)
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_values", dict(behaviour))
        object.__setattr__(self, "calls", [])

    def __getattr__(self, name: str) -> Any:
        if name not in self._members:
            raise AttributeError(f"this version's {self._kind} has no '{name}'")
        value = self._values.get(name)
        if name in self._values and not callable(value):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, *arguments))
            return value(*arguments, **named) if value is not None else None

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._members:
            raise AttributeError(f"this version's {self._kind} has no '{name}'")
        self.calls.append((name, value))
        self._values[name] = value


class FakeTensorrt:
    """The module of one version. ``made`` keeps every object by class, in order.

    Args:
        version: A key of ``API``.
        fail: Members that fail as TensorRT does, by giving None or False: ``{"Builder": {...}}``.
        warning: Logged while parsing.
        free: Whether the network has a free batch size.

    Attributes:
        calibrated: The batches that calibration took, read from device memory.
    """

    def __init__(
        self,
        version: str,
        fail: dict[str, dict[str, Any]] | None = None,
        warning: str = "",
        free: bool = True,
    ) -> None:
        api = API[version]
        self.members = {k: frozenset(v.split()) for k, v in api["classes"].items()}
        self.__version__ = api["version"]
        for name, values in api["enums"].items():
            setattr(self, name, IntEnum(name, {v: i for i, v in enumerate(values.split())}))
        self.made: dict[str, list[Double]] = {}
        self.fail = fail or {}
        self.warning = warning
        self.free = free
        self.log: Any = None
        self.host: dict[int, np.ndarray] = {}
        self.ILogger = type("ILogger", (), {})
        self.IProfiler = type("IProfiler", (), {})
        if "IInt8EntropyCalibrator2" in self.members:
            self.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})
        self.calibrated: list[np.ndarray] = []

    def make(self, kind: str, behaviour: dict[str, Any] | None = None) -> Double:
        if kind not in self.members:
            raise AttributeError(f"this version has no {kind}")
        double = Double(self.members[kind], kind, {**(behaviour or {}), **self.fail.get(kind, {})})
        self.made.setdefault(kind, []).append(double)
        return double

    # -- building

    def Builder(self, log: Any) -> Double:  # noqa: N802
        self.log = log
        profile = lambda: self.make("IOptimizationProfile", {"set_shape": lambda *a: None})  # noqa: E731
        return self.make(
            "Builder",
            {
                "create_network": self._network,
                "create_builder_config": self._config,
                "create_optimization_profile": profile,
                "build_serialized_network": self._build,
            },
        )

    def _network(self, flags: int) -> Double:
        batch = -1 if self.free else 2
        image = self.make("ITensor", {"name": "image", "shape": (batch, 3, SIDE, SIDE)})
        return self.make("INetworkDefinition", {"num_inputs": 1, "get_input": lambda i: image})

    def _config(self) -> Double:
        cache = self.make("ITimingCache", {"serialize": lambda: b"tactics"})
        return self.make(
            "IBuilderConfig",
            {
                "add_optimization_profile": lambda profile: 0,
                "create_timing_cache": lambda known: cache,
                "set_timing_cache": lambda cache, ignore_mismatch: True,
                **self._calibration(),
            },
        )

    def _calibration(self) -> dict[str, Any]:
        if "int8_calibrator" not in self.members["IBuilderConfig"]:
            return {}
        return {"int8_calibrator": None, "set_calibration_profile": lambda profile: True}

    def _build(self, network: Double, config: Double) -> bytes | None:
        flags = [call[1].name for call in config.calls if call[0] == "set_flag"]
        if "INT8" in flags and (calibrator := config.int8_calibrator) is not None:
            if self.free and not any(call[0] == "set_calibration_profile" for call in config.calls):
                self.log.log("Severity.ERROR", "calibration profile is not defined")
                return None
            self._calibrate(calibrator)
        return b"an engine"

    def _calibrate(self, calibrator: Any) -> None:
        """As the builder does; a callback that raises ends the data, as the bindings make of it."""
        known = calibrator.read_calibration_cache()
        if known is not None:
            assert known == b"ranges"
            return
        shape = (calibrator.get_batch_size(), 3, SIDE, SIDE)
        while True:
            try:
                addresses = calibrator.get_batch(["image"])
            except Exception:
                break
            if not addresses:
                break
            [address] = addresses
            self.calibrated.append(self.host[address].view(np.float32).reshape(shape).copy())
        calibrator.write_calibration_cache(memoryview(b"ranges"))

    def OnnxParser(self, network: Double, log: Any) -> Double:  # noqa: N802
        def parse(path: str) -> bool:
            if self.warning:
                log.log("Severity.WARNING", self.warning)
            return True

        error = self.make("ParserError", {"desc": lambda: "it has\nno such operator"})
        return self.make(
            "OnnxParser",
            {"parse_from_file": parse, "num_errors": 1, "get_error": lambda i: error},
        )

    # -- running

    def Runtime(self, log: Any) -> Double:  # noqa: N802
        self.log = log
        return self.make("Runtime", {"deserialize_cuda_engine": lambda plan: self._engine()})

    def _engine(self) -> Double:
        names = ("image", "logits")
        layers = {
            "Layers": [
                {"LayerType": "conv", "Inputs": [{"Format/Datatype": "Int8 NCHW"}]},
                {"LayerType": "gemm", "Inputs": [{"Format/Datatype": "Half"}]},
                {"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Float"}]},
            ]
        }
        inspector = lambda: self.make(  # noqa: E731
            "EngineInspector", {"get_engine_information": lambda form: json.dumps(layers)}
        )
        return self.make(
            "ICudaEngine",
            {
                "num_io_tensors": 2,
                "num_layers": 3,
                "get_tensor_name": lambda i: names[i],
                "get_tensor_dtype": lambda name: SimpleDtype("DataType.FLOAT"),
                "create_execution_context": lambda *config: self._context(),
                "create_engine_inspector": inspector,
                **self._runtime_config(),
            },
        )

    def _runtime_config(self) -> dict[str, Any]:
        if "create_runtime_config" not in self.members["ICudaEngine"]:
            return {}
        return {"create_runtime_config": lambda: self.make("IRuntimeConfig")}

    def _context(self) -> Double:
        state: dict[str, Any] = {"shapes": {}, "addresses": {}}

        def execute(stream: int) -> bool:
            x = self.host[state["addresses"]["image"]].view(np.float32)
            x = x.reshape(state["shapes"]["image"])
            y = x.reshape(len(x), -1).sum(axis=1, keepdims=True) * np.arange(1, CLASSES + 1)
            self.host[state["addresses"]["logits"]][:] = y.astype(np.float32).reshape(-1).view("u1")
            return True

        def set_shape(name: str, shape: tuple[int, ...]) -> bool:
            state["shapes"][name] = shape
            return True

        return self.make(
            "IExecutionContext",
            {
                "set_input_shape": set_shape,
                "infer_shapes": list,
                "get_tensor_shape": lambda name: (state["shapes"]["image"][0], CLASSES),
                "set_tensor_address": lambda n, a: state["addresses"].__setitem__(n, a) or True,
                "set_optimization_profile_async": lambda profile, stream: True,
                "execute_async_v3": execute,
            },
        )


class SimpleDtype(SimpleNamespace):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def __str__(self) -> str:
        return self.text


class HostBuffers:
    """Memory of the host in place of a GPU's, found by the doubles under the same addresses."""

    stream = 7

    def __init__(self, memory: dict[int, np.ndarray]) -> None:
        self.memory = memory
        self.captured = 0

    def allocate(self, nbytes: int) -> int:
        address = 1000 * (len(self.memory) + 1)
        self.memory[address] = np.zeros(nbytes, np.uint8)
        return address

    def upload(self, address: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.memory[address][:] = array.reshape(-1).view(np.uint8)

    def download(self, array: np.ndarray, address: int) -> None:
        array.reshape(-1).view(np.uint8)[:] = self.memory[address]

    def synchronize(self) -> None:
        pass

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        launch()
        return launch

    def close(self) -> None:
        self.memory.clear()
