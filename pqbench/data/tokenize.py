"""From texts to token ids, padded to one length: what a text model is fed."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.assets import minilm
from pqbench.core.errors import ConfigError, DataError, UnavailableError

PAD, UNKNOWN, FIRST_WORD = 0, 1, 2
WORD = re.compile(r"\w+|[^\w\s]")
Arrays = dict[str, npt.NDArray[np.int64]]


class Tokenizer(ABC):
    """Named by ``_target_`` in a model's ``tokenizer`` node."""

    @abstractmethod
    def fit(self, texts: Sequence[str]) -> None:
        """Learn from the training texts (a vocabulary), where it must."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Arrays:
        """One int64 array (N, ...) per input of the model, in the model's order."""


def check_length(max_length: int) -> None:
    """Raise ``ConfigError`` unless at least one token is kept."""
    if max_length < 1:
        raise ConfigError(f"tokenizer.max_length must be at least 1, got {max_length}")


@dataclass
class WordTokenizer(Tokenizer):
    """Words and punctuation marks; the vocabulary is the training texts' most frequent words.

    Gives ``input_ids`` (N, max_length), padded with 0 at the end, 1 for an unknown word, and
    ``length`` (N,): the number of tokens that are no padding, at least 1.

    Attributes:
        vocabulary: Number of ids, padding and unknown included; the embedding's size.
        max_length: Tokens kept of each text.
    """

    vocabulary: int = 10000
    max_length: int = 64
    ids: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_length(self.max_length)
        if self.vocabulary <= FIRST_WORD:
            raise ConfigError(f"tokenizer.vocabulary must be above 2, got {self.vocabulary}")

    @staticmethod
    def words(text: str) -> list[str]:
        """Words and punctuation marks of a text, in lower case."""
        return WORD.findall(text.lower())

    def fit(self, texts: Sequence[str]) -> None:
        """Take the most frequent words; ties are broken by the alphabet."""
        counts = Counter(word for text in texts for word in self.words(text))
        best = sorted(counts, key=lambda word: (-counts[word], word))
        chosen = best[: self.vocabulary - FIRST_WORD]
        self.ids = {word: number for number, word in enumerate(chosen, FIRST_WORD)}

    def encode(self, texts: Sequence[str]) -> Arrays:
        """Ids and lengths; an empty text is one unknown word.

        Raises:
            DataError: ``fit`` has not been called.
        """
        if not self.ids:
            raise DataError("the tokenizer has no vocabulary", hint="fit it on training texts")
        ids = np.full((len(texts), self.max_length), PAD, np.int64)
        length = np.ones(len(texts), np.int64)
        for row, text in enumerate(texts):
            found = [self.ids.get(word, UNKNOWN) for word in self.words(text)] or [UNKNOWN]
            length[row] = min(len(found), self.max_length)
            ids[row, : length[row]] = found[: self.max_length]
        return {"input_ids": ids, "length": length}


@dataclass
class SubwordTokenizer(Tokenizer):
    """A trained subword tokenizer of the library ``tokenizers`` (``tokenizer.json``).

    Gives ``input_ids`` and ``attention_mask`` (N, max_length), padded at the end, mask 0 there.

    Attributes:
        file: Path of a ``tokenizer.json``; None takes all-MiniLM-L6-v2's (BERT's WordPiece).
        max_length: Tokens kept of each text, the special ones included.
    """

    file: str | None = None
    max_length: int = 64

    def __post_init__(self) -> None:
        check_length(self.max_length)

    def fit(self, texts: Sequence[str]) -> None:
        """Nothing to learn: it is trained."""

    def _load(self) -> Any:
        try:
            from tokenizers import Tokenizer as Trained
        except ImportError as error:
            raise UnavailableError(
                "this model's tokenizer needs the package tokenizers",
                hint="pip install 'pqbench[text]'",
            ) from error
        try:
            if self.file is None:
                return Trained.from_str(minilm.read("tokenizer.json").decode())
            return Trained.from_str(Path(self.file).read_text(encoding="utf-8"))
        except UnavailableError:
            raise
        except Exception as error:  # the library raises bare Exceptions
            raise DataError(
                f"cannot read the tokenizer {self.file}: {error}", hint="is it a tokenizer.json?"
            ) from error

    def encode(self, texts: Sequence[str]) -> Arrays:
        """Ids and mask.

        Raises:
            UnavailableError: ``tokenizers`` or the wheel with the tokenizer is not installed.
            DataError: The file is no tokenizer.
        """
        trained = self._load()
        padding = trained.padding or {}
        trained.enable_truncation(self.max_length)
        trained.enable_padding(
            pad_id=padding.get("pad_id", 0),
            pad_token=padding.get("pad_token", "[PAD]"),
            length=self.max_length,
        )
        found = trained.encode_batch(list(texts))
        shape = (len(texts), self.max_length)
        return {
            "input_ids": np.asarray([f.ids for f in found], np.int64).reshape(shape),
            "attention_mask": np.asarray([f.attention_mask for f in found], np.int64).reshape(
                shape
            ),
        }
