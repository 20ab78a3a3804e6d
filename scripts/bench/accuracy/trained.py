"""A pruned network's weights from a training on another machine, as a step.

Used by ``--config-dir scripts/bench/accuracy/conf`` with this folder on ``PYTHONPATH``, in
``distill``'s place: after ``prune`` with the same settings as there. ``scripts/train_away.py`` made
the weights and the card beside them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pqbench import Artifact, LineageEntry, Representation, Step, StepData
from pqbench.core.errors import WeightsError
from pqbench.core.step import Kind


@dataclass(frozen=True)
class Trained(Step):
    """Fill a pruned network with weights that were trained elsewhere.

    Attributes:
        weights_file: Its state dict (.safetensors), a card of the same name (.json) beside it.
    """

    kind: ClassVar[Kind] = "train"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    weights_file: str

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:  # noqa: ARG002
        """Fill it, save it, with what the card tells of its training.

        Raises:
            WeightsError: The file does not fit, or was made for another pruning.
        """
        from pqbench.models.weights import load_file
        from pqbench.nets.checkpoint import load_network, save_like

        began = time.perf_counter()
        path = Path(self.weights_file)
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        mine = artifact.lineage[-1]
        for name, value in card["prune"].items():
            if mine.action != "prune" or mine.config.get(name) != value:
                raise WeightsError(
                    f"{path.name} belongs to a network pruned with {name}={value}, this one has "
                    f"{mine.action}: {name}={mine.config.get(name)}"
                )
        network = load_network(artifact)
        state = {n: v.float() if v.is_floating_point() else v for n, v in load_file(path).items()}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise WeightsError(f"{path.name} does not fit: {str(error).splitlines()[1]}") from error
        entry = LineageEntry(
            action="trained",
            seconds=time.perf_counter() - began,
            config=card["tune"],
            details={**card["lineage"][-1]["details"], "hardware": card["device"]},
        )
        return save_like(network, artifact, workdir, entry)
