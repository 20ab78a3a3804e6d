"""What threads and batches buy: the law, the advice, tables and figures of it."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import make_record

from pqbench.report.rows import make_rows
from pqbench.report.scaling import scalings, serial_share, table_rows
from pqbench.report.write import write_report


def record(threads, ms, backend="ort"):
    made = make_record(backend=backend, ms=ms, batches=(1, 8, 64))
    made.config = {**made.config, "threads": threads}
    made.fingerprint = f"{backend}{threads}"
    return made


def of(times):
    """A model whose larger batches cost what their samples cost, but for a constant."""
    records = []
    for threads, ms in times.items():
        made = record(threads, ms)
        for latency in made.latency:
            scale = (0.5 + 0.5 * latency.batch_size) * ms / latency.p50_ms
            for name in ("p50_ms", "p50_low_ms", "p50_high_ms"):
                setattr(latency, name, getattr(latency, name) * scale)
        records.append(made)
    (found,) = scalings(make_rows(records))
    return found


@given(st.floats(0, 1), st.floats(0.01, 1e4))
def test_serial_share_is_that_of_amdahls_law(share, alone):
    times = {n: alone * (share + (1 - share) / n) for n in (1, 2, 4, 8)}
    assert serial_share(times) == pytest.approx(share, abs=1e-6)


def test_serial_share_stays_within_0_and_1():
    assert serial_share({1: 10.0, 2: 4.0}) == 0  # faster than twice
    assert serial_share({1: 10.0, 2: 12.0}) == pytest.approx(1)
    assert serial_share({2: 10.0}) is None


def test_speedup_over_threads_has_the_interval_of_both_medians():
    gain = of({1: 10.0, 2: 5.0}).speedup(1, 2)
    assert gain.value == pytest.approx(2)
    assert gain.low < 2 < gain.high
    assert (gain.high - gain.low) / 2 == pytest.approx(0.05, abs=0.03)


def test_advice_takes_the_fewest_threads_and_the_smallest_batch_that_reach_the_most():
    many = of({1: 10.0, 2: 6.0, 4: 5.9})
    assert many.choice() == (2, 64)  # four threads buy 2 % more
    assert "2 threads, batch 64" in many.advice()
    assert "more buys nothing" in many.advice()
    assert "At batch 1, 4 threads are 1.69" in many.advice()


def test_scaling_is_none_where_threads_do_not_vary(tmp_path):
    assert scalings(make_rows([record(2, 5.0), record(2, 4.0, "openvino")])) == []
    write_report([record(2, 5.0)], tmp_path, plots=False)
    assert not (tmp_path / "scaling.csv").exists()


def test_report_of_scaling_has_advice_table_and_figures(tmp_path):
    records = [record(n, 12 / n + 2, b) for n in (1, 2, 4) for b in ("ort", "openvino")]
    files = {path.name for path in write_report(records, tmp_path)}
    assert {"scaling_threads.png", "scaling_batches.pdf", "scaling.md"} <= files
    lines = list(csv.DictReader((tmp_path / "scaling.csv").open(encoding="utf-8")))
    assert len(lines) == 2 * 3 * 3 == len(table_rows(scalings(make_rows(records))))
    first = next(x for x in lines if x["batch"] == "1" and x["threads"] == "4")
    assert float(first["speedup over 1"]) == pytest.approx(14 / 5, rel=0.01)
    assert first["serial share %"] == "14"
    assert "more buys nothing" in (tmp_path / "report.html").read_text(encoding="utf-8")
