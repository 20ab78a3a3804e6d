"""On which devices a training runs, and the processes that take part: one for each device.

With more than one device Lightning's DDP averages the gradients. The calling process is rank 0 and
keeps all that is reported and saved; the others are spawned from here rather than by Lightning,
whose launchers start the main script anew or leave every result in a child.
"""

from __future__ import annotations

import multiprocessing
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pqbench.core.errors import UnsupportedError
from pqbench.training.settings import TrainingSettings

JOIN_S = 60.0


@dataclass(frozen=True)
class Rank:
    """One process's place in a training.

    Attributes:
        accelerator: ``cpu`` or ``gpu``.
        count: Devices, and so processes.
        number: This process's number; 0 is the caller.
        port: Where rank 0 listens, if ``count`` is above 1.
    """

    accelerator: Literal["cpu", "gpu"]
    count: int = 1
    number: int = 0
    port: int = 0

    @property
    def device(self) -> str:
        """The device's name in torch."""
        return "cpu" if self.accelerator == "cpu" else f"cuda:{self.number}"


def find_rank(settings: TrainingSettings) -> Rank:
    """Where the settings ask to train.

    Raises:
        UnsupportedError: There are fewer GPUs than asked for, or the precision needs one.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if settings.precision == "16-mixed" and not gpus:
        raise UnsupportedError(
            "training: precision=16-mixed needs a CUDA GPU, and PyTorch finds none",
            hint="use precision=bf16-mixed, or null for float32",
        )
    count = max(1, gpus) if settings.devices == "auto" else int(settings.devices)
    if count > max(1, gpus):
        raise UnsupportedError(
            f"training: devices={count} needs {count} CUDA GPUs, PyTorch finds {gpus}",
            hint="use devices=auto, which takes those that are there, or devices=1",
        )
    if settings.batch_size % count:
        raise UnsupportedError(
            f"training: batch_size={settings.batch_size} cannot be shared by {count} devices",
            hint="take a multiple of the number of devices",
        )
    return Rank("gpu" if gpus else "cpu", count)


@contextmanager
def spawn_ranks(rank: Rank, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[Rank]:
    """Run ``call(rank, *arguments)`` in a process for each rank but 0; ended with the block.

    Yields:
        Rank 0.

    Raises:
        UnsupportedError: The network cannot be handed to another process.
    """
    if rank.count == 1:
        yield rank
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # By value: multiprocessing itself would share the tensors' memory, and every process train it.
    try:
        content = pickle.dumps(arguments)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UnsupportedError(
            f"training: this network cannot be handed to a second process: {error}",
            hint="use devices=1",
        ) from error
    context = multiprocessing.get_context("spawn")
    started = []
    try:
        for number in range(1, rank.count):
            other = Rank(rank.accelerator, rank.count, number, port)
            process = context.Process(target=_enter, args=(call, other, content), daemon=True)
            process.start()
            started.append(process)
        yield Rank(rank.accelerator, rank.count, 0, port)
        for process in started:
            process.join(JOIN_S)
    finally:
        for process in started:
            if process.is_alive():
                process.kill()
            process.join()


def _enter(call: Callable[..., Any], rank: Rank, content: bytes) -> None:
    """In another rank's process."""
    call(rank, *pickle.loads(content))
