"""ELPV: 2,624 electroluminescence photographs of solar cells, functional or defective.

Source: https://github.com/zae-bayern/elpv-dataset, installed by the wheel ``elpv-dataset``
(images CC BY-NC-SA 4.0, code Apache-2.0). Deitsch et al., "Automatic classification of defective
photovoltaic module cells in electroluminescence images", Solar Energy 185 (2019), report 82.4 %
(SVM) and 88.4 % (CNN) accuracy.

The experts' labels are the probabilities 0, 1/3, 2/3 and 1 that a cell is defective. As in the
paper, a cell counts as defective above 0.5; all 2,624 cells are used.
"""

from __future__ import annotations

import csv
from pathlib import Path

from pqbench.assets.installed import package_folder
from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import DataError
from pqbench.data.stratify import stratified_split

CLASSES = ("functional", "defective")
HELD_OUT = 0.25
SEED = 0


def read_labels(root: Path) -> list[tuple[str, float, str]]:
    """Rows ``(image path below root, defect probability, cell type)`` of ``labels.csv``.

    Raises:
        DataError: The file is missing or a line does not have three fields.
    """
    path = root / "labels.csv"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"ELPV labels not found: {path}",
            hint="pip install 'pqbench[demo]' brings the data set as a wheel, or set dataset.root "
            "to a folder with labels.csv and images/",
        ) from error
    rows: list[tuple[str, float, str]] = []
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter=" "), start=1):
        fields = [field for field in row if field]
        try:
            name, probability, kind = fields
            rows.append((name, float(probability), kind))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected 'path probability type'") from error
    return rows


def default_root() -> Path:
    """The data folder inside the installed wheel ``elpv-dataset``.

    Raises:
        DataError: The wheel is not installed.
    """
    package = package_folder("elpv_dataset")
    if package is None:
        raise DataError(
            "data set 'elpv' is not installed",
            hint="pip install 'pqbench[demo]' (2,624 images, 90 MB, works offline afterwards)",
        )
    return package / "data"


class Elpv(Dataset):
    """Solar cells as a binary task: label 0 functional, 1 defective (probability above 0.5).

    The split holds out a quarter of each label-probability and cell-type stratum (seed 0).

    Args:
        root: Folder with ``labels.csv`` and ``images/``; None takes the installed wheel.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = Path(root) if root is not None else None

    def index(self) -> DataIndex:
        """List the files of both splits.

        Raises:
            DataError: The wheel, the labels or an image listed in them is missing.
        """
        root = self.root if self.root is not None else default_root()
        rows = read_labels(root)
        absent = [name for name, _, _ in rows if not (root / name).is_file()]
        if absent:
            raise DataError(
                f"{len(absent)} images listed in {root / 'labels.csv'} are missing, the first: "
                f"{root / absent[0]}",
                hint="install or unpack the data set again",
            )
        train, held = stratified_split(
            [name for name, _, _ in rows],
            [(probability, kind) for _, probability, kind in rows],
            HELD_OUT,
            SEED,
        )

        def split(indices: list[int]) -> Split:
            return Split(
                files=tuple(root / rows[i][0] for i in indices),
                labels=tuple(int(rows[i][1] > 0.5) for i in indices),
            )

        return DataIndex(classes=CLASSES, splits={"train": split(train), "val": split(held)})
