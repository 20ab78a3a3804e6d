"""The page of the runtimes beside each other: figures from records, nothing by hand."""

from __future__ import annotations

import headline_page
import pytest
from record_factory import make_failed, make_record
from runtimes_page import page, parity_db

from pqbench.core.record import Pairing, Record, Speedup


def small(backend: str, recipe: tuple[str, ...] = (), *, ms: float, speedup: float = 1) -> Record:
    record = make_record("net", backend, recipe, ms=ms, speedup=speedup, batches=(1,))
    record.parity = [{"sqnr_db": 118.2}, {"sqnr_db": 93.5}]
    return record


def test_page_shows_each_figure_once_with_its_interval() -> None:
    eager, mnn = small("torch", ms=20), small("mnn", ms=5)
    int8 = small("mnn", ("mnn_int8",), ms=2, speedup=2.5)
    refused = make_failed("net", "mnn", ("ort_int8",), message="ends by SIGABRT")
    speed = Speedup(1, 9.5, 9.1, 9.9, 24, 0, False, 20.0, [9.4, 9.6])
    pairing = Pairing(int8.fingerprint, eager.fingerprint, ["", ""], [speed])
    text = page([eager, mnn, int8, refused], [pairing], "| its tool |\n| --- |")
    rows = [line for line in text if line.startswith(("| uncompressed", "| MNN"))]
    assert [row.split(" | ")[1] for row in rows] == ["MNN", "MNN", "PyTorch"]  # fastest first
    assert "9.50 [9.10, 9.90]" in rows[0] and "2.50 [" in rows[0]
    assert "\\~4.00" in rows[1]  # not paired: two medians, without an interval
    assert "| 93.5 |" in rows[1] and "93.5" not in rows[0]
    assert any("ends by SIGABRT" in line and "ort\\_int8 on mnn" in line for line in text)
    assert text.index("| its tool |") > text.index("### Beside the runtimes' own tools")


def test_parity_is_the_least_of_all_conversions_and_of_float_models_alone() -> None:
    assert parity_db(small("mnn", ms=5)) == 93.5
    assert parity_db(small("mnn", ("mnn_int8",), ms=5)) is None
    assert parity_db(make_record("net", "torch")) is None


def test_page_has_no_answer_where_no_finalist_was_timed_beside_eager() -> None:
    records = [small("torch", ms=20), small("mnn", ms=5)]
    text = "\n".join(page(records, []))
    assert "there is no answer here" in text and "Stay with FP32" not in text


def test_page_without_results_is_refused() -> None:
    with pytest.raises(ValueError, match="none of these records"):
        page([make_failed()], [])


def test_headline_page_tells_pairs_from_medians_at_each_batch_size() -> None:
    eager, ort = (make_record("net", b, ms=ms) for b, ms in (("torch", 20), ("ort", 5)))
    int8 = make_record("net", "ort", ("ort_int8",), ms=2, speedup=2.5)
    batch = int8.latency[-1].batch_size
    speed = Speedup(batch, 9.5, 9.1, 9.9, 24, 0, False, 20.0, [9.4, 9.6])
    pairing = Pairing(int8.fingerprint, eager.fingerprint, ["", ""], [speed])
    text = headline_page.lines([eager, ort, int8], [pairing])
    [row] = [line for line in text if line.startswith("| ORT INT8")]
    assert row.count("9.50 [9.10, 9.90]") == 1 and row.count("\\~") == len(int8.latency) - 1
    assert "no finalist" not in " ".join(text).lower()
    assert "no finalist" in " ".join(headline_page.lines([eager, ort, int8])).lower()
