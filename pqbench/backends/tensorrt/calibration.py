"""TensorRT 10's own INT8 calibration, fed with an artifact's batches from device memory.

https://docs.nvidia.com/deeplearning/tensorrt/api/python_api/infer/Int8/Calibrator.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.backends.onnx_files import write_aside
from pqbench.backends.tensorrt.api import Library
from pqbench.backends.tensorrt.buffers import Buffers
from pqbench.core.calibration_batches import CalibrationBatches
from pqbench.core.errors import UnsupportedError
from pqbench.core.files import file_sha256

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Calibration:
    """What a build needs to calibrate.

    Attributes:
        batches: The samples.
        cache: File of the ranges that were found: read if it is there, else written.
        buffers: Makes device memory; called only if something has to be calibrated.
    """

    batches: CalibrationBatches
    cache: Path
    buffers: Callable[[], Buffers]

    def shapes(self) -> dict[str, Shape]:
        """Shape of one batch of each input."""
        batches = self.batches
        return {
            name: (batches.batch_size, *shape)
            for name, shape in zip(batches.names, batches.shapes, strict=True)
        }


def check_calibrates(library: Library) -> None:
    """Raise ``UnsupportedError`` unless this TensorRT calibrates by itself."""
    if not library.calibrates:
        raise UnsupportedError(
            f"{library.name} {library.version} has no INT8 calibration of its own: only "
            "TensorRT 10 has",
            hint="quantize the ONNX file instead: compress=ort_int8_trt",
        )


def cache_file(library: Library, onnx: Path, batches: CalibrationBatches, folder: Path) -> Path:
    """Where the ranges of a model and its calibration samples are kept.

    Neither the GPU nor the engine's options are in the key: ``IInt8EntropyCalibrator2`` calibrates
    before layers are fused, so its ranges belong to the network and not to an engine.
    """
    text = f"{file_sha256(onnx)} {batches.content} {library.name} {library.version}"
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.calibration"


def make_calibrator(library: Library, calibration: Calibration) -> Any:
    """A calibrator of the module at hand.

    The library swallows what its callbacks raise and takes it for the end of the data; the
    calibrator keeps it, and ``close`` raises it.

    Raises:
        UnsupportedError: The library has no calibration.
    """
    check_calibrates(library)
    trt = library.trt

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[name-defined,misc]  # of the module
        """Feeds each batch once; has ``fed``, the batches so far, and ``found``, a cache's use."""

        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.fed = 0
            self.found = False
            self._failure: Exception | None = None
            self._buffers: Buffers | None = None
            self._addresses: dict[str, int] = {}
            self._batches: Iterator[Mapping[str, npt.NDArray[Any]]] = iter(calibration.batches)

        def get_batch_size(self) -> int:
            """Called by the library."""
            return calibration.batches.batch_size

        def get_batch(self, names: list[str]) -> list[int] | None:
            """Called by the library: addresses of the next batch's inputs; None after the last."""
            if self._failure is not None:
                return None
            try:
                batch = next(self._batches, None)
                if batch is None:
                    return None
                addresses = self._upload({name: batch[name] for name in names})
            except Exception as error:  # must not leave a callback from C++: raised by close()
                self._failure = error
                return None
            self.fed += 1
            return addresses

        def _upload(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[int]:
            if self._buffers is None:
                self._buffers = calibration.buffers()
            for name, array in batch.items():
                if name not in self._addresses:
                    self._addresses[name] = self._buffers.allocate(array.nbytes)
                self._buffers.upload(self._addresses[name], np.ascontiguousarray(array))
            self._buffers.synchronize()  # TensorRT reads them on a stream of its own
            return [self._addresses[name] for name in batch]

        def read_calibration_cache(self) -> bytes | None:
            """Called by the library: the ranges of an earlier build, or None."""
            if not calibration.cache.is_file():
                return None
            self.found = True
            return calibration.cache.read_bytes()

        def write_calibration_cache(self, cache: Any) -> None:
            """Called by the library after it has calibrated."""
            if self._failure is not None:
                return  # ranges of some of the batches only
            try:
                write_aside(calibration.cache, bytes(memoryview(cache)))
            except Exception as error:  # as in get_batch
                self._failure = error

        def close(self) -> None:
            """Free the device memory.

            Raises:
                Exception: What went wrong in a callback.
            """
            if self._buffers is not None:
                self._buffers.close()
            if self._failure is not None:
                raise self._failure

        def report(self) -> dict[str, Any]:
            """What was done, for the placement.

            Raises:
                UnsupportedError: The library left calibration samples unused.
            """
            whole = len(calibration.batches)
            if self.fed not in ((0, whole) if self.found else (whole,)):
                raise UnsupportedError(
                    f"TensorRT took {self.fed} of {whole} calibration batches and no ranges of an "
                    "earlier build",
                    hint="use compress=ort_int8_trt for this model",
                )
            return {
                "batches": whole,
                "batch_size": calibration.batches.batch_size,
                "content": calibration.batches.content,
                "ranges_found": self.found and not self.fed,
            }

    return Calibrator()
