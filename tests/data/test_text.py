"""Labelled texts from files, tokenizers, and prepared text splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pqbench.core.errors import ConfigError, DataError
from pqbench.data.imdb import Imdb
from pqbench.data.prepare import assert_disjoint
from pqbench.data.text import Sst2, TextTable, prepare_text, read_table
from pqbench.data.tokenize import SubwordTokenizer, WordTokenizer

REVIEWS = [("a fine film", 1), ("a dull film", 0), ("fine , fine !", 1), ("dull , dull", 0)] * 5


def tsv(path: Path, rows: list[tuple[str, int]], header: str = "sentence\tlabel") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(f"{text}\t{label}" for text, label in rows)]) + "\n")
    return path


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    train = [(f"{text} {i}", label) for i, (text, label) in enumerate(REVIEWS)]
    tsv(tmp_path / "train.tsv", [*train, ("a scored text", 1)])
    tsv(tmp_path / "dev.tsv", [("a scored text", 1), ("zebra film", 0)])
    tsv(tmp_path / "test.tsv", [(0, 1)], header="index\tsentence")  # type: ignore[list-item]
    return tmp_path


def test_word_tokenizer_pads_cuts_and_counts() -> None:
    tokenizer = WordTokenizer(vocabulary=5, max_length=4)
    tokenizer.fit(["b b b a a c", "A! c"])
    arrays = tokenizer.encode(["a b", "b z a a a", ""])
    assert tokenizer.ids == {"a": 2, "b": 3, "c": 4}  # '!' is rarer: there are three words' room
    assert arrays["input_ids"].tolist() == [[2, 3, 0, 0], [3, 1, 2, 2], [1, 0, 0, 0]]
    assert arrays["length"].tolist() == [2, 4, 1]
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.int64)}


def test_word_tokenizer_without_vocabulary_or_with_bad_settings_says_so() -> None:
    with pytest.raises(DataError, match="no vocabulary"):
        WordTokenizer().encode(["a"])
    with pytest.raises(ConfigError, match="max_length"):
        WordTokenizer(max_length=0)
    with pytest.raises(ConfigError, match="vocabulary"):
        WordTokenizer(vocabulary=2)


def test_subword_tokenizer_gives_berts_ids_and_mask() -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("all_minilm_l6_v2")
    arrays = SubwordTokenizer(max_length=6).encode(["Hello world", "unaffable " * 9])
    # [CLS] hello world [SEP] in bert-base-uncased's vocabulary
    assert arrays["input_ids"][0].tolist() == [101, 7592, 2088, 102, 0, 0]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert arrays["input_ids"][1, -1] == 102


def test_subword_tokenizer_damaged_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        SubwordTokenizer(file=str(tmp_path / "tokenizer.json")).encode(["a"])


def test_text_table_without_label_column_names_file_and_header(tmp_path: Path) -> None:
    file = tsv(tmp_path / "train.csv", [], header="text,stars")
    with pytest.raises(DataError, match=r"train\.csv has no column 'label'.*text, stars"):
        TextTable(str(file)).index()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\tlabel\n", "holds no rows"),
        ("text\tlabel\nfine\n", "line 2: 1 of 2 fields"),
        ("", "its header is: empty"),
    ],
)
def test_read_table_damaged_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "a.tsv", "text", "label")


def test_read_table_keeps_quotes_of_tsv_and_reads_those_of_csv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\n"quoted\t1\n')
    (tmp_path / "a.csv").write_text('text,label\n"one, two",1\n')
    assert read_table(tmp_path / "a.tsv", "text", "label") == [('"quoted', "1")]
    assert read_table(tmp_path / "a.csv", "text", "label") == [("one, two", "1")]


def test_text_table_unknown_label_and_missing_root_are_explained(tmp_path: Path) -> None:
    tsv(tmp_path / "train.tsv", [("a", 0), ("b", 3)], header="text\tlabel")
    with pytest.raises(DataError, match="row 2: label '3' is none of 0, 1"):
        TextTable(str(tmp_path), classes=("0", "1")).index()
    with pytest.raises(DataError, match=r"set dataset\.root"):
        TextTable().index()


def test_text_table_of_one_file_holds_a_share_of_each_class_out(tmp_path: Path) -> None:
    file = tsv(tmp_path / "all.tsv", [(f"t{i}", i % 2) for i in range(40)], "text\tlabel")
    index = TextTable(str(file)).index()
    train, val = index.split("train"), index.split("val")
    assert (len(train), len(val), sum(val.labels)) == (30, 10, 5)
    assert not set(train.samples or ()) & set(val.samples or ())


def test_sst2_reads_glues_layout_and_leaves_the_unlabelled_test_out(reviews: Path) -> None:
    index = Sst2(str(reviews)).index()
    assert set(index.splits) == {"train", "val"}
    assert index.classes == ("negative", "positive")
    assert index.split("val").labels == (1, 0)


def test_prepare_text_learns_nothing_from_scored_texts(reviews: Path, tmp_path: Path) -> None:
    def prepared(split: str, exclude: list[str]) -> object:
        return prepare_text(
            Sst2(str(reviews)),
            split,
            WordTokenizer(max_length=8),
            tmp_path / f"out_{split}",
            {"max_length": 8},
            exclude=exclude,
            scored="val",
        )

    train, val = prepared("train", ["val"]), prepared("val", [])
    assert_disjoint(train, val)  # type: ignore[arg-type]
    assert "1 samples left out of 'train'" in train.notes[0]  # type: ignore[attr-defined]
    ids = val.feed(slice(0, 2))["input_ids"]  # type: ignore[attr-defined]
    assert ids[0, 1] == 1  # 'scored' occurs in the scored text alone
    assert ids[1, 0] == 1  # so does 'zebra'
    assert ids[0, 0] > 1
    specs = {spec.name: spec.shape for spec in val.specs()}  # type: ignore[attr-defined]
    assert specs == {"input_ids": (None, 8), "length": (None,)}


@pytest.fixture
def imdb(tmp_path: Path) -> Path:
    texts = {"neg": ["dull.<br /><br />Long.", "a bore"], "pos": ["fine<br>film", "a joy"]}
    for split in ("train", "test"):
        for label, given in texts.items():
            folder = tmp_path / "aclImdb" / split / label
            folder.mkdir(parents=True)
            for number, text in enumerate(given):
                same = split == "train" or number == 0  # one review of each class is in both
                (folder / f"{number}_5.txt").write_text(text if same else f"{text} {split}")
    (tmp_path / "aclImdb" / "train" / "unsup").mkdir()
    return tmp_path / "aclImdb"


def test_imdb_reads_its_layout_and_learns_nothing_from_scored_reviews(
    imdb: Path, tmp_path: Path
) -> None:
    index = Imdb(str(imdb)).index()
    assert index.classes == ("negative", "positive")
    assert index.split("val").labels == (0, 0, 1, 1)
    assert list(index.split("train").samples or ()) == [
        "dull. Long.",
        "a bore",
        "fine film",
        "a joy",
    ]
    train = prepare_text(
        Imdb(str(imdb)), "train", WordTokenizer(max_length=4), tmp_path / "out", {}, exclude=["val"]
    )
    assert train.count == 2
    assert "2 samples left out of 'train'" in train.notes[0]


def test_imdb_changed_review_changes_the_listing(imdb: Path) -> None:
    before = Imdb(str(imdb)).index().listing_hash()
    (imdb / "test" / "neg" / "1_5.txt").write_text("changed text")
    assert Imdb(str(imdb)).index().listing_hash() != before


def test_imdb_missing_class_or_unreadable_review_is_named(imdb: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no reviews in .*train/neg.*\{train,test\}"):
        Imdb(str(tmp_path)).index()
    (imdb / "test" / "pos" / "0_5.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"cannot read .*0_5\.txt"):
        prepare_text(Imdb(str(imdb)), "val", WordTokenizer(), tmp_path / "out", {})


def test_prepare_text_refuses_images(tmp_path: Path) -> None:
    from pqbench.data.synthetic import Synthetic

    with pytest.raises(DataError, match="holds no texts"):
        prepare_text(Synthetic(count=2), "val", WordTokenizer(), tmp_path, {})
