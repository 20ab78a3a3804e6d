"""A dense smaller network in the pruned one's place, as a step: what pruning must beat.

Used by ``--config-dir scripts/bench/accuracy/conf`` with this folder on ``PYTHONPATH``. The network
is the model's own with other arguments, trained before from scratch (``scripts/train_cifar.py``,
``scripts/train_bundled_cnn.py --width``); as a step it is scored on the same images and timed in
turns with the dense one, as the pruned ones are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pqbench import Artifact, LineageEntry, Representation, Step, StepData
from pqbench.core.step import Kind


@dataclass(frozen=True)
class Smaller(Step):
    """Put a smaller network with weights of its own in the model's place.

    Attributes:
        weights_file: Its state dict (.safetensors).
        network: Arguments of the model's builder that differ.
    """

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    weights_file: str
    network: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:  # noqa: ARG002
        """Build it, fill it, save it.

        Raises:
            WeightsError: The file does not fit.
        """
        from pqbench.models.weights import load_file
        from pqbench.nets.checkpoint import build_network, builder_of, save_like

        began = time.perf_counter()
        network = build_network({**builder_of(artifact), **self.network})
        state = load_file(Path(self.weights_file))
        network.load_state_dict(
            {n: v.float() if v.is_floating_point() else v for n, v in state.items()}
        )
        count = sum(p.numel() for p in network.parameters())
        entry = LineageEntry(
            action="smaller",
            seconds=time.perf_counter() - began,
            config={"network": dict(self.network)},
            details={"parameters": count},
        )
        return save_like(network, artifact, workdir, entry)
