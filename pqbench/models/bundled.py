"""Checkpoints that pqbench ships: ``bundled/<model>-<dataset>.safetensors`` with a ``.json`` card.

They are stored in half precision; :func:`pqbench.models.weights.apply` copies them into a float32
network. A card that says ``"over": "pretrained"`` is of a file that holds only the tensors that
were trained: the others are those of ``model.pretrained``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import WeightsError
from pqbench.models.weights import load_file

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class Bundled:
    """A shipped checkpoint.

    Attributes:
        path: The weights.
        card: How they were made, what they scored, licence.
    """

    path: Path
    card: Mapping[str, Any]

    def fits(self, classes: Sequence[str]) -> bool:
        """True if it was trained on exactly these classes, in this order."""
        return list(self.card.get("classes", [])) == list(classes)

    def is_of(self, builder: Mapping[str, Any]) -> bool:
        """True unless its card names another network than this builder's."""
        known = self.card.get("builder")
        return known is None or dict(known) == dict(builder)

    @property
    def lies_over_pretrained(self) -> bool:
        """True if the file holds some of the tensors, to lie over the model's pretrained ones."""
        return bool(self.card.get("over") == "pretrained")

    def load(self) -> dict[str, Tensor]:
        """The file's tensors, every floating-point one in float32.

        Raises:
            WeightsError: The file is damaged.
        """
        state = load_file(self.path)
        return {n: v.float() if v.is_floating_point() else v for n, v in state.items()}


def find(model: str, dataset: str, folder: Path = FOLDER) -> Bundled | None:
    """The checkpoint shipped for this model and data set, or None.

    Args:
        model: Name of the model, as in ``conf/model``.
        dataset: Name of the data set, as in ``conf/dataset``.
        folder: Where to look.

    Raises:
        WeightsError: There is one, but its card is missing or unreadable.
    """
    path = folder / f"{model}-{dataset}.safetensors"
    if not path.is_file():
        return None
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"no readable card {path.with_suffix('.json')}: {error}",
            hint="reinstall pqbench, or delete the weights beside it",
        ) from error
    return Bundled(path, card)
