"""A model in MNN: opening it for one batch size, and one batch through it.

https://mnn-docs.readthedocs.io/en/latest/inference/session.html
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import UnsupportedError

WINOGRAD = 3  # HintMode.WINOGRAD_MEMORY_LEVEL
EXACT, FASTEST = 0, 3  # its levels: no Winograd; the largest tiles
BACKENDS, THREAD_NUMBER = 2, 4  # SessionInfoCode
CPU_KINDS = {0: "CPU", 13: "CPU extension"}  # MNN_FORWARD_CPU, MNN_FORWARD_CPU_EXTENSION


class MnnNet:
    """One session of MNN, for one batch size, on the CPU in float32.

    Args:
        path: The model.
        shapes: Shape of each input by name, the batch included.
        outputs: Names of the outputs.
        threads: Threads that share one operator.
        winograd: 0 (products as written) to 3 (Winograd's with the largest tiles, MNN's default):
            on ResNet-18 the latter costs 44 dB of SQNR and takes half the time.

    Raises:
        UnsupportedError: MNN cannot read the model, or make a session for these shapes.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, Sequence[int]],
        outputs: Sequence[str],
        threads: int,
        winograd: int = FASTEST,
    ) -> None:
        import MNN

        self._mnn = MNN
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.outputs = list(outputs)
        self.interpreter = MNN.Interpreter(str(path))
        self.interpreter.setSessionHint(WINOGRAD, winograd)
        self.session = self.interpreter.createSession(
            {"backend": "CPU", "numThread": threads, "precision": "high"}
        )
        if self.session is None:
            raise UnsupportedError(f"MNN cannot make a session of {path.name}")
        self._inputs = dict(self.interpreter.getSessionInputAll(self.session))
        missing = set(self.shapes) - set(self._inputs)
        if missing:
            raise UnsupportedError(f"{path.name} has no input {', '.join(sorted(missing))}")
        for name, shape in self.shapes.items():
            self.interpreter.resizeTensor(self._inputs[name], shape)
        self.interpreter.resizeSession(self.session)

    def feed(self, batch: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Copy a batch into the session's inputs."""
        mnn = self._mnn
        for name, shape in self.shapes.items():
            given = mnn.Tensor(
                shape, mnn.Halide_Type_Float, batch[name], mnn.Tensor_DimensionType_Caffe
            )
            self._inputs[name].copyFrom(given)

    def fetch(self) -> list[npt.NDArray[np.float32]]:
        """The outputs of the last run, each (n, ...), in float32."""
        mnn, found = self._mnn, []
        for name in self.outputs:
            tensor = self.interpreter.getSessionOutput(self.session, name)
            shape = tensor.getShape()
            host = mnn.Tensor(
                shape,
                mnn.Halide_Type_Float,
                np.empty(shape, np.float32),
                mnn.Tensor_DimensionType_Caffe,
            )
            tensor.copyToHostTensor(host)
            found.append(np.array(host.getNumpyData(), np.float32).reshape(shape))
        return found

    def run(self, batch: Mapping[str, npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        """One inference.

        Raises:
            UnsupportedError: An operator fails; MNN tells a number.
        """
        self.feed(batch)
        code = self.interpreter.runSession(self.session)
        if code != 0:
            raise UnsupportedError(f"MNN cannot run this model: error {code}")
        return self.fetch()

    def watch(self, before: Callable[[Any], None], after: Callable[[Any], None]) -> None:
        """Run what was fed last, operator by operator; both are given MNN's ``OpInfo``."""

        def begin(_tensors: Any, info: Any) -> bool:
            before(info)
            return True

        def end(_tensors: Any, info: Any) -> bool:
            after(info)
            return True

        self.interpreter.runSessionWithCallBackInfo(self.session, begin, end)

    def device(self) -> str:
        """What the session runs on, read back: ``CPU`` or ``CPU extension`` (AVX2, AVX512)."""
        number = int(self.interpreter.getSessionInfo(self.session, BACKENDS))
        return CPU_KINDS.get(number, f"MNN's device {number}")

    def threads(self) -> int | None:
        """Threads, read back; None where it cannot be told.

        The Python binding gives the integer's bits as a float, a subnormal one: where subnormals
        are flushed to zero, as while timing, it would be lost.
        """
        with _subnormals_kept():
            value = self.interpreter.getSessionInfo(self.session, THREAD_NUMBER)
            packed = struct.pack("<i" if isinstance(value, int) else "<f", value)
            bits = struct.unpack("<i", packed)[0]
        return int(bits) or None


@contextlib.contextmanager
def _subnormals_kept() -> Iterator[None]:
    """C's default floating-point environment in this thread meanwhile, where there is glibc."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    before = (ctypes.c_uint32 * 16)()
    libc.fegetenv(before)
    libc.fesetenv(ctypes.c_void_p(-1))  # FE_DFL_ENV
    try:
        yield
    finally:
        libc.fesetenv(before)
