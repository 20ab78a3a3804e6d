"""IMDB's Large Movie Review Dataset: 25,000 + 25,000 reviews, negative or positive.

Maas et al. 2011, "Learning Word Vectors for Sentiment Analysis". Source:
https://ai.stanford.edu/~amaas/data/sentiment/ (no licence stated; to be cited where it is used).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from pqbench.assets.download import Remote
from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import DataError
from pqbench.data.archive import obtain

ARCHIVE = Remote(  # URL and MD5 as in torchtext
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    "",
    md5="7c2ac02c03563afcf9b574c7e56c153a",
)
FOLDER = "aclImdb"
LABELS = {"neg": "negative", "pos": "positive"}
SPLITS = {"train": "train", "val": "test"}
BREAK = re.compile(r"(?:\s*<br\s*/?>\s*)+")


class TextFiles(Sequence[str]):
    """One text per file, read when it is asked for; HTML line breaks become spaces."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> TextFiles: ...

    def __getitem__(self, index: int | slice) -> str | TextFiles:
        """A file's text.

        Raises:
            DataError: It cannot be read.
        """
        if isinstance(index, slice):
            return TextFiles(self.files[index])
        try:
            text = self.files[index].read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read {self.files[index]}: {error}", "unpack it again"
            ) from error
        return BREAK.sub(" ", text)


class Imdb(Dataset):
    """Reviews in ``root/{train,test}/{neg,pos}/*.txt``; ``val`` is the published test set.

    The 50,000 unlabelled reviews of ``train/unsup`` are not used.

    Args:
        root: The unpacked folder; None takes ``aclImdb`` below ``home``, downloaded if missing.
        home: Where data sets live, relative to the current folder.
        mirror: URL of the folder that holds the archive; None takes the authors'.
    """

    def __init__(
        self, root: str | None = None, home: str = "data", mirror: str | None = None
    ) -> None:
        self.root = Path(root) if root is not None else None
        self.home = Path(home)
        self.mirror = mirror

    def locate(self) -> Path:
        """The folder, downloaded and unpacked where ``root`` is None and it is missing.

        Raises:
            DataError: It cannot be had.
        """
        if self.root is not None:
            return self.root
        name = ARCHIVE.url.rpartition("/")[2]
        url = f"{self.mirror.rstrip('/')}/{name}" if self.mirror else ARCHIVE.url
        remote = Remote(url, "", md5=ARCHIVE.md5)
        return obtain(remote, self.home / FOLDER, self.home / name)

    def index(self) -> DataIndex:
        """List the files; the texts are read when they are prepared.

        Raises:
            DataError: The data set is missing and cannot be had, or a class holds no text.
        """
        root = self.locate()
        splits, sources = {}, []
        for split, part in SPLITS.items():
            files: list[Path] = []
            labels: list[int] = []
            for label, name in enumerate(LABELS):
                found = sorted((root / part / name).glob("*.txt"))
                if not found:
                    raise DataError(
                        f"no reviews in {root / part / name}",
                        hint="expected in dataset.root: {train,test}/{neg,pos}/*.txt",
                    )
                files += found
                labels += [label] * len(found)
            splits[split] = Split(tuple(files), tuple(labels), samples=TextFiles(files))
            sources += files
        return DataIndex(tuple(LABELS.values()), splits, sources=tuple(sources))
