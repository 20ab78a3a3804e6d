"""Device memory and the stream of a TensorRT session, by whichever library the user has.

All three use the device's primary context, so that engines, PyTorch and ONNX Runtime can live in
one process. A context of its own (``pycuda.autoinit``) clashes with theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pqbench.backends.support import library
from pqbench.core.errors import OutOfMemoryFailure, PqbenchError

KINDS = ("torch", "pycuda", "cuda_python")
Array = npt.NDArray[Any]


class Buffers(Protocol):
    """Memory on one GPU and one stream; every copy is asynchronous on that stream."""

    @property
    def stream(self) -> int:
        """The stream's handle, a ``cudaStream_t`` as a number."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Address of new device memory, kept until :meth:`close`.

        Raises:
            OutOfMemoryFailure: The GPU's memory does not suffice.
        """
        ...

    def upload(self, address: int, array: Array) -> None:
        """Copy a C-contiguous host array to an address."""
        ...

    def download(self, array: Array, address: int) -> None:
        """Copy from an address into a C-contiguous host array; complete after a synchronize."""
        ...

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        ...

    def capture(self, launch: Callable[[], None]) -> Callable[[], None] | None:
        """A CUDA graph of what ``launch`` enqueues, as a call that replays it; None if unable."""
        ...

    def close(self) -> None:
        """Free all memory."""
        ...


def make_buffers(kind: str, index: int) -> Buffers:
    """Buffers of one kind on the GPU of that index.

    Raises:
        UnavailableError: The library is not installed or finds no driver.
    """
    if kind == "pycuda":
        return PycudaBuffers(index)
    return TorchBuffers(index) if kind == "torch" else CudaPythonBuffers(index)


class TorchBuffers:
    """PyTorch's CUDA tensors and stream."""

    def __init__(self, index: int) -> None:
        self._torch = library("torch", "torch")
        self._device = self._torch.device("cuda", index)
        self._torch.cuda.set_device(self._device)
        self._stream = self._torch.cuda.Stream(self._device)
        self._memory: dict[int, Any] = {}

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.cuda_stream)

    def allocate(self, nbytes: int) -> int:
        """See :class:`Buffers`."""
        with _memory_errors(self._torch.OutOfMemoryError):
            tensor = self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device)
        self._memory[tensor.data_ptr()] = tensor
        return int(tensor.data_ptr())

    def upload(self, address: int, array: Array) -> None:
        """See :class:`Buffers`."""
        with self._torch.cuda.stream(self._stream):
            self._memory[address].copy_(self._bytes(array), non_blocking=True)

    def download(self, array: Array, address: int) -> None:
        """See :class:`Buffers`."""
        with self._torch.cuda.stream(self._stream):
            self._bytes(array).copy_(self._memory[address], non_blocking=True)

    def _bytes(self, array: Array) -> Any:
        if not array.flags.writeable:
            array = array.copy()
        return self._torch.from_numpy(array.reshape(-1).view(np.uint8))

    def synchronize(self) -> None:
        """See :class:`Buffers`."""
        self._stream.synchronize()

    def capture(self, launch: Callable[[], None]) -> Callable[[], None] | None:
        """See :class:`Buffers`."""
        graph = self._torch.cuda.CUDAGraph()
        self.synchronize()
        with self._torch.cuda.graph(graph, stream=self._stream):
            launch()

        def replay() -> None:
            with self._torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def close(self) -> None:
        """See :class:`Buffers`."""
        self._memory.clear()


class CudaPythonBuffers:
    """NVIDIA's ``cuda-python`` (the ``cuda.bindings`` package): the CUDA runtime as it is."""

    def __init__(self, index: int) -> None:
        self._cuda = library("cuda.bindings.runtime", "cuda-bindings")
        self._memory: list[int] = []
        self._call("cudaSetDevice", index)
        self._stream = self._call("cudaStreamCreate")

    def _call(self, function: str, *arguments: Any) -> Any:
        code, *values = getattr(self._cuda, function)(*arguments)
        if int(code) != 0:
            name = getattr(code, "name", str(code))
            kind = OutOfMemoryFailure if "MemoryAllocation" in name else PqbenchError
            raise kind(f"CUDA: {function}: {name}")
        return values[0] if values else None

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def allocate(self, nbytes: int) -> int:
        """See :class:`Buffers`."""
        address = int(self._call("cudaMalloc", nbytes))
        self._memory.append(address)
        return address

    def upload(self, address: int, array: Array) -> None:
        """See :class:`Buffers`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        source = array.ctypes.data
        self._call("cudaMemcpyAsync", address, source, array.nbytes, kind, self._stream)

    def download(self, array: Array, address: int) -> None:
        """See :class:`Buffers`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        target = array.ctypes.data
        self._call("cudaMemcpyAsync", target, address, array.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """See :class:`Buffers`."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, launch: Callable[[], None]) -> Callable[[], None] | None:
        """See :class:`Buffers`."""
        self.synchronize()
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        launch()
        graph = self._call("cudaStreamEndCapture", self._stream)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        return lambda: self._call("cudaGraphLaunch", executable, self._stream)

    def close(self) -> None:
        """See :class:`Buffers`."""
        for address in self._memory:
            self._call("cudaFree", address)
        self._memory.clear()


class PycudaBuffers:
    """PyCUDA, in the device's primary context."""

    def __init__(self, index: int) -> None:
        self._driver = library("pycuda.driver", "pycuda")
        self._driver.init()
        # As pycuda.autoprimaryctx does, for a device of our choice; autoinit would clash.
        self._context = self._driver.Device(index).retain_primary_context()
        self._context.push()
        self._stream = self._driver.Stream()
        self._memory: dict[int, Any] = {}

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.handle)

    def allocate(self, nbytes: int) -> int:
        """See :class:`Buffers`."""
        with _memory_errors(self._driver.MemoryError):
            memory = self._driver.mem_alloc(nbytes)
        self._memory[int(memory)] = memory
        return int(memory)

    def upload(self, address: int, array: Array) -> None:
        """See :class:`Buffers`."""
        self._driver.memcpy_htod_async(address, array, self._stream)

    def download(self, array: Array, address: int) -> None:
        """See :class:`Buffers`."""
        self._driver.memcpy_dtoh_async(array, address, self._stream)

    def synchronize(self) -> None:
        """See :class:`Buffers`."""
        self._stream.synchronize()

    def capture(self, launch: Callable[[], None]) -> Callable[[], None] | None:
        """PyCUDA has no CUDA graphs."""
        del launch
        return None

    def close(self) -> None:
        """See :class:`Buffers`."""
        for memory in self._memory.values():
            memory.free()
        self._memory.clear()
        self._context.pop()


@contextlib.contextmanager
def _memory_errors(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as error:
        raise OutOfMemoryFailure(
            f"the GPU's memory does not suffice: {str(error).splitlines()[0]}",
            hint="use a smaller batch size or model",
        ) from error
