"""A model in LiteRT: opening it, one sample through it, and what XNNPACK took of it.

https://ai.google.dev/edge/litert/inference
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import UnsupportedError

LITERT_FILE = "model.tflite"
DELEGATE = "DELEGATE"


@dataclass(frozen=True)
class Node:
    """One operator of the file.

    Attributes:
        kind: Its type, ``CONV_2D``.
        delegated: Whether XNNPACK runs it; else a kernel of LiteRT's own.
        types: NumPy's names of its operands' types, optional ones that are left out aside.
        shapes: Shapes of its operands.
        output: Shape of its first result.
    """

    kind: str
    delegated: bool
    types: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]


class LitertNet:
    """An interpreter with XNNPACK, which is its default.

    Args:
        path: The model.
        shapes: Shape of each input, in the artifact's order.
        threads: Threads of XNNPACK.

    Attributes:
        started: Threads that loading started, besides the caller's; None where the system does not
            tell.

    Raises:
        UnsupportedError: LiteRT cannot read the model, or its inputs have other shapes.
    """

    def __init__(self, path: Path, shapes: Sequence[Sequence[int]], threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        before = _threads_now()
        try:
            self.interpreter = Interpreter(str(path), num_threads=threads)
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:300]
            raise UnsupportedError(f"LiteRT cannot load {path.name}: {reason}") from error
        now = _threads_now()
        self.started = None if before is None or now is None else now - before
        inputs = {d["index"]: d for d in self.interpreter.get_input_details()}
        signatures = list(self.interpreter._get_full_signature_list().values())
        if len(signatures) != 1:
            raise UnsupportedError(f"{path.name} has {len(signatures)} signatures instead of one")
        self._inputs = _in_order(signatures[0]["inputs"])
        self._outputs = _in_order(signatures[0]["outputs"])
        details = {**inputs, **{d["index"]: d for d in self.interpreter.get_output_details()}}
        self._steps = {
            index: d["quantization"] for index, d in details.items() if d["dtype"] == np.int8
        }
        found = [[int(n) for n in inputs[index]["shape"]] for index in self._inputs]
        if found != [list(shape) for shape in shapes]:
            raise UnsupportedError(
                f"{path.name} takes {found}, not {[list(shape) for shape in shapes]}"
            )

    def run(self, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Outputs of one sample, (1, ...) each."""
        for index, array in zip(self._inputs, arrays, strict=True):
            given = np.ascontiguousarray(array)
            if index in self._steps:
                scale, zero = self._steps[index]
                given = np.clip(np.rint(given / scale) + zero, -128, 127).astype(np.int8)
            self.interpreter.set_tensor(index, given)
        self.interpreter.invoke()
        return [self._fetch(index) for index in self._outputs]

    def _fetch(self, index: int) -> npt.NDArray[np.float32]:
        """An output in float32; a quantized model gives int8."""
        value: npt.NDArray[Any] = self.interpreter.get_tensor(index)
        if index in self._steps:
            scale, zero = self._steps[index]
            value = ((value.astype(np.float32) - zero) * scale).astype(np.float32)
        return value

    def nodes(self) -> list[Node]:
        """The file's operators, in order."""
        details = self.interpreter._get_ops_details()
        taken = _delegated(details)
        sizes = {d["index"]: tuple(int(n) for n in d["shape"])
                 for d in self.interpreter.get_tensor_details()}  # fmt: skip
        return [
            Node(
                kind=one["op_name"],
                delegated=one["index"] in taken,
                types=tuple(np.dtype(t).name for t in one["operand_types"]),
                shapes=tuple(sizes.get(int(i), ()) for i in one["inputs"] if i != -1),
                output=sizes.get(int(one["outputs"][0]), ()),
            )
            for one in details
            if one["op_name"] != DELEGATE
        ]

    def close(self) -> None:
        """Free the interpreter."""
        self.interpreter = None


def signature(path: Path) -> tuple[str, list[str]]:
    """Name of the model's signature, and its inputs' names there, in the artifact's order."""
    from ai_edge_litert.interpreter import Interpreter

    name, parts = next(iter(Interpreter(str(path))._get_full_signature_list().items()))
    return name, sorted(parts["inputs"], key=_number)


def _delegated(details: Sequence[dict[str, Any]]) -> set[int]:
    """Operators that stand between a delegate's outputs and its inputs."""
    makers = {
        int(tensor): one
        for one in details
        if one["op_name"] != DELEGATE
        for tensor in one["outputs"]
    }
    found: set[int] = set()
    for delegate in (one for one in details if one["op_name"] == DELEGATE):
        given = {int(tensor) for tensor in delegate["inputs"]}
        waiting = [int(tensor) for tensor in delegate["outputs"]]
        while waiting:
            tensor = waiting.pop()
            maker = makers.get(tensor)
            if tensor in given or maker is None or maker["index"] in found:
                continue
            found.add(maker["index"])
            waiting += [int(i) for i in maker["inputs"]]
    return found


def _in_order(named: dict[str, int]) -> list[int]:
    """Tensors of ``args_0``, ``args_1``, ...: by their number, not by the alphabet."""
    return [int(named[name]) for name in sorted(named, key=_number)]


def _number(name: str) -> int:
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else 0


def _threads_now() -> int | None:
    """Threads of this process."""
    try:
        import psutil

        return int(psutil.Process().num_threads())
    except (ImportError, OSError):
        return None
