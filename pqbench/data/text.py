"""Labelled texts from CSV or TSV files, and their preparation for a text model."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pqbench.assets.download import Remote
from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import ConfigError, DataError
from pqbench.core.split import MANIFEST, PreparedSplit
from pqbench.data.archive import obtain
from pqbench.data.prepare import save_manifest
from pqbench.data.stratify import stratified_split
from pqbench.data.subset import choose, content_key
from pqbench.data.tokenize import Tokenizer

SST2 = Remote(  # URL and MD5 as in torchtext
    "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip", "", md5="9f81648d4199384278b86e315dac217c"
)


def read_table(path: Path, text: str, label: str) -> list[tuple[str, str]]:
    """Rows ``(text, label)`` of a CSV (.csv, quoted) or TSV (.tsv, .txt, not quoted) with a header.

    Args:
        path: The file, UTF-8.
        text: Name of the column with the text.
        label: Name of the column with the label.

    Raises:
        DataError: The file is missing, has no such column, or a row lacks a field.
    """
    comma = path.suffix.lower() == ".csv"
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    lines = content.splitlines(keepends=True)
    reader = (
        csv.reader(lines) if comma else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    header = next(reader, [])
    for column in (text, label):
        if column not in header:
            raise DataError(
                f"{path} has no column '{column}'; its header is: {', '.join(header) or 'empty'}",
                hint="set dataset.source.text and dataset.source.label to the columns' names",
            )
    at_text, at_label = header.index(text), header.index(label)
    rows = []
    for row in reader:
        if len(row) <= max(at_text, at_label):
            if not row:
                continue
            raise DataError(f"{path}, line {reader.line_num}: {len(row)} of {len(header)} fields")
        rows.append((row[at_text], row[at_label].strip()))
    if not rows:
        raise DataError(f"{path} holds no rows below its header")
    return rows


class TextTable(Dataset):
    """Labelled texts: ``root/train.tsv`` (or .csv) and ``root/val.tsv``, or one file.

    Of one file a share of each class is held out, by a hash of the text.

    Args:
        root: A folder with one file per split, or a single file.
        text: Name of the column with the text.
        label: Name of the column with the label.
        classes: The labels in the file, in the order of the model's outputs; None takes the sorted
            labels of the train split.
        names: What the classes are called; None takes the labels.
        held_out: Share of each class held out of a single file, in (0, 1).
        seed: Seeds that choice.
    """

    files: Mapping[str, Sequence[str]] = {
        "train": ("train",),
        "val": ("val", "dev", "validation"),
        "test": ("test",),
    }

    def __init__(
        self,
        root: str | None = None,
        text: str = "text",
        label: str = "label",
        classes: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        held_out: float = 0.25,
        seed: int = 0,
    ) -> None:
        self.root = Path(root) if root is not None else None
        self.text = text
        self.label = label
        self.classes = None if classes is None else [str(name) for name in classes]
        self.names = names
        self.held_out = held_out
        self.seed = seed

    def locate(self) -> Path:
        """The folder or file.

        Raises:
            DataError: It is missing.
        """
        if self.root is None or not self.root.exists():
            what = "no dataset.root is given" if self.root is None else f"no {self.root}"
            raise DataError(
                f"labelled texts are missing: {what}",
                hint="expected: a folder with train.tsv and val.tsv (or .csv), or one such file, "
                f"with the columns {self.text} and {self.label}; set dataset.root",
            )
        return self.root

    def index(self) -> DataIndex:
        """Read all splits.

        Raises:
            DataError: A file is missing or has no such column, or a label is none of the classes.
        """
        root = self.locate()
        tables = self._tables(root)
        train = next(iter(tables.values()))[1]
        classes = self.classes or sorted({label for _, label in train})
        if len(classes) < 2:
            raise DataError(f"{root} has {len(classes)} labels in its column '{self.label}'")
        splits = {name: self._split(path, rows, classes) for name, (path, rows) in tables.items()}
        names = tuple(self.names or classes)
        if len(names) != len(classes):
            raise ConfigError(f"{len(names)} names for {len(classes)} classes")
        sources = tuple(dict.fromkeys(path for path, _ in tables.values()))
        return DataIndex(names, splits, sources=sources)

    def _tables(self, root: Path) -> dict[str, tuple[Path, list[tuple[str, str]]]]:
        if root.is_file():
            rows = read_table(root, self.text, self.label)
            keys = [f"{i}:{text}" for i, (text, _) in enumerate(rows)]
            parts = stratified_split(keys, [label for _, label in rows], self.held_out, self.seed)
            names = ("train", "val")
            return {
                n: (root, [rows[i] for i in part]) for n, part in zip(names, parts, strict=True)
            }
        tables = {}
        for split, stems in self.files.items():
            found = [
                root / f"{stem}{suffix}"
                for stem in stems
                for suffix in (".tsv", ".csv", ".txt")
                if (root / f"{stem}{suffix}").is_file()
            ]
            if found and self._labelled(split, found[0]):
                tables[split] = (found[0], read_table(found[0], self.text, self.label))
        if "train" not in tables:
            raise DataError(
                f"{root} holds no train.tsv or train.csv", hint="or set dataset.root to one file"
            )
        return tables

    def _labelled(self, split: str, path: Path) -> bool:
        """Whether to read a file; False for a test file that was published without labels."""
        with path.open(encoding="utf-8") as file:
            header = file.readline()
        return split != "test" or self.label in header

    def _split(self, path: Path, rows: list[tuple[str, str]], classes: list[str]) -> Split:
        numbers = {label: number for number, label in enumerate(classes)}
        for row, (_, label) in enumerate(rows):
            if label not in numbers:
                raise DataError(
                    f"{path}, row {row + 1}: label '{label}' is none of {', '.join(classes)}",
                    hint="set dataset.source.classes",
                )
        return Split(
            files=tuple(path / str(row) for row in range(len(rows))),
            labels=tuple(numbers[label] for _, label in rows),
            samples=[text for text, _ in rows],
        )


class Sst2(TextTable):
    """SST-2, sentences of film reviews, negative or positive (Socher et al. 2013; GLUE).

    Source: GLUE's archive (67,349 / 872 / 1,821 rows, the last without labels). ``val`` is its
    ``dev.tsv``, the split that papers report.

    Args:
        root: Folder with ``train.tsv`` and ``dev.tsv``; None takes ``SST-2`` below ``home``,
            downloaded if it is not there.
        home: Where data sets live, relative to the current folder.
    """

    def __init__(self, root: str | None = None, home: str = "data") -> None:
        super().__init__(
            root, "sentence", "label", classes=("0", "1"), names=("negative", "positive")
        )
        self.home = Path(home)

    def locate(self) -> Path:
        """The folder, downloaded where it is missing.

        Raises:
            DataError: It cannot be had.
        """
        if self.root is not None:
            return super().locate()
        return obtain(SST2, self.home / "SST-2", self.home / "SST-2.zip")


def prepare_text(
    dataset: Dataset,
    split: str,
    tokenizer: Tokenizer,
    folder: Path,
    settings: Mapping[str, Any],
    limit: int | None = None,
    seed: int = 0,
    exclude: Sequence[str] = (),
    scored: str | None = None,
) -> PreparedSplit:
    """Tokenize every text of a split once, into ``folder``.

    Args:
        dataset: Where the texts are.
        split: Name of the split.
        tokenizer: Fitted here on the ``train`` split, without texts that are scored.
        folder: Where to write; created.
        settings: The tokenizer's settings, which the content depends on.
        limit: At most so many texts, the same share of each class; None takes all.
        seed: Seeds that choice.
        exclude: Names of the splits that are scored: their texts are left out of this one.
        scored: Name of the split that is scored: the vocabulary comes from the others.

    Raises:
        DataError: The split is missing or empty, or holds no texts.
    """
    index = dataset.index()
    chosen, notes = choose(index, split, exclude, limit, seed)
    texts = _texts(chosen)
    if "train" in index.splits:
        others = [scored] if scored not in (None, "train") else []
        learnt, _ = choose(index, "train", others, None, seed)
        tokenizer.fit(_texts(learnt))
    arrays = tokenizer.encode(texts)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    labels = np.asarray(chosen.labels, np.int64)
    np.save(folder / "labels.npy", labels)
    return save_manifest(
        folder,
        split,
        chosen,
        index.classes,
        list(arrays),
        {},
        [content_key(text) for text in texts],
        notes,
        {"labels": labels.tolist(), "tokenizer": dict(settings)},
    )


def _texts(split: Split) -> list[str]:
    texts = [sample for sample in split.samples or () if isinstance(sample, str)]
    if len(texts) != len(split):
        raise DataError(
            "this data set holds no texts", hint="choose a data set for text classification"
        )
    return texts
