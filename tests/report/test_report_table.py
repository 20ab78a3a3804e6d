import csv
import dataclasses
import io
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import make_failed, make_record, make_sweep
from rich.console import Console

from pqbench.report.latex import to_latex
from pqbench.report.plots_accuracy import pareto_front
from pqbench.report.render import to_csv, to_markdown, to_rich
from pqbench.report.table import NONE, make_table


def cell(table, row, name):
    return table.cells[row][[c.name for c in table.columns].index(name)]


def rendered(table, width=120):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(to_rich(table, width))
    return console.file.getvalue()


def markdown_rows(table):
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    return [[part.strip() for part in line.strip("|").split(" | ")] for line in lines]


def test_table_order_does_not_depend_on_the_order_of_records():
    records = make_sweep()
    expected = to_markdown(make_table(records))
    random.Random(3).shuffle(records)
    assert to_markdown(make_table(records)) == expected


def test_table_groups_and_puts_the_baseline_first():
    rows = make_table(make_sweep()).rows
    groups = [(r.model, r.backend) for r in rows]
    assert groups == sorted(groups)
    first = {}
    for row in rows:
        first.setdefault((row.model, row.backend), row.recipe)
    del first[("mobilenetv3", "tensorrt")]  # its baseline is not among the records
    assert set(first.values()) == {"baseline"}


def test_table_shows_value_interval_and_unit():
    table = make_table([make_record(), make_record(recipe=("nncf_int8",), ms=3.1, speedup=1.9)])
    p50 = cell(table, 1, "p50_ms")
    assert (p50.text, p50.detail) == ("3.10", "3.05…3.16")
    speedup = cell(table, 1, "speedup_first")
    assert (speedup.text, speedup.detail) == ("1.90", "1.84…1.96")
    headers = [c.header for c in table.columns if c.numeric]
    assert all("[" in header for header in headers)
    assert "p50 [ms], batch 1" in headers
    assert "per sample [ms], batch 64" in headers


def test_table_one_batch_size_needs_no_second_columns():
    table = make_table([make_record(batches=(8,))])
    headers = [c.header for c in table.columns]
    assert "p50 [ms], batch 8" in headers
    assert not any("per sample" in header for header in headers)
    assert "speedup_b8" in to_csv(table).splitlines()[0]


def test_table_failure_is_a_row_with_its_reason():
    table = make_table([make_record(), make_failed()])
    status = cell(table, 1, "status")
    assert status.text == "unavailable"
    (number,) = status.notes
    assert "no driver was found" in table.footnotes[number - 1]
    assert cell(table, 1, "p50_ms").text == "\u2013"
    for text in (to_markdown(table), rendered(table), to_latex(table), to_csv(table)):
        assert "unavailable" in text
    # the terminal wraps, so compare the words
    assert "no driver was found" in " ".join(rendered(table).split())


def test_table_slowdown_is_shown_and_explained():
    table = make_table(make_sweep())
    row = next(i for i, r in enumerate(table.rows) if r.recipe == "ort_int8" and r.score_pct)
    slow = cell(table, row, "speedup_first")
    assert slow.text == "0.78"
    assert table.footnotes[slow.notes[0] - 1].startswith("Slower than its baseline: 38 added")
    share = cell(table, row, "int8_pct")
    assert share.text == "27"
    assert "14 of 52" in table.footnotes[share.notes[0] - 1]


def test_table_same_footnote_has_one_number():
    table = make_table([make_failed(), make_failed("resnet18")])
    assert len(table.footnotes) == 1


def test_table_null_carries_its_reason():
    record = make_record()
    record.accuracy = None
    record.reasons["accuracy"] = "protocol.score=false"
    table = make_table([record])
    top1 = cell(table, 0, "score_pct")
    assert top1.text == "\u2013"
    assert table.footnotes[top1.notes[0] - 1] == "protocol.score=false"


def as_segmentation(record):
    record.experiment.task, record.accuracy.metric = "segmentation", "miou"
    record.accuracy.miou, record.accuracy.miou_low, record.accuracy.miou_high = 0.5, 0.4, 0.6
    if record.accuracy.against_baseline:
        record.accuracy.against_baseline.metric = "miou"
    return record


def test_table_names_the_metric_that_the_drop_refers_to():
    base = as_segmentation(make_record(dataset="camvid"))
    table = make_table([base, as_segmentation(make_record("unet", dataset="camvid"))])
    assert [c.header for c in table.columns if c.name == "score_pct"] == ["mIoU [%]"]
    score = cell(table, 0, "score_pct")
    assert (score.text, score.detail, score.notes) == ("50.0", "40.0…60.0", ())


def test_table_has_columns_of_clean_images_where_a_record_has_them():
    plain = make_table(make_sweep())
    assert not {"clean_pct", "clean_drop_pt"} & {c.name for c in plain.columns}
    baseline, record = make_record(), make_record(recipe=("nncf_int8",), ms=3.1)
    record.accuracy_clean = dataclasses.replace(
        record.accuracy, top1=0.8, top1_low=0.7, top1_high=0.9, count=300
    )
    table = make_table([baseline, record])
    shown = cell(table, 1, "clean_pct")
    assert (shown.text, shown.detail) == ("80.0", "70.0…90.0")
    assert cell(table, 0, "clean_pct").text == NONE
    assert "no pretraining saw" in table.legend
    assert "clean" not in rendered(table, 100).partition("Left out")[0]
    assert "clean_pct_low" in to_csv(table)
    assert "clean" in rendered(table, 140)


def test_table_of_several_tasks_marks_the_other_metric():
    quantized = as_segmentation(make_record(recipe=("nncf_int8",), dataset="camvid"))
    table = make_table([make_record(), quantized])
    assert "accuracy [%]" in [c.header for c in table.columns]
    at = [r.metric for r in table.rows].index("miou")
    for name in ("score_pct", "drop_pt"):
        (number,) = cell(table, at, name).notes
        assert table.footnotes[number - 1] == "mIoU, not top-1"
        assert not cell(table, 1 - at, name).notes
    line = next(csv.DictReader(io.StringIO(to_csv(make_table([quantized])))))
    assert (line["metric"], line["score_pct"], line["top1_pct"]) == ("miou", "50.0", "91.0")


def test_note_of_every_experiment_is_said_once():
    records = [make_record(), make_record(recipe=("nncf_int8",)), make_failed()]
    for record in records[:2]:
        record.notes = ["limit: 400 of 654 samples"]
    records[1].notes.append("INT8 in part")
    table = make_table(records)
    assert table.legend.startswith("All experiments: limit: 400 of 654 samples. ")
    assert table.footnotes[:1] == ("INT8 in part",)
    assert not any("limit" in note for note in table.footnotes)
    assert "limit: 400" in make_table(records[:1]).footnotes[0]


def test_terminal_shares_the_footnote_of_what_is_unstable():
    records = [make_record(recipe=(step,)) for step in ("a", "b")]
    for number, record in enumerate(records):
        record.latency[0].stable = False
        record.latency[0].unstable_reason = f"known to 1{number} % only"
    table = make_table(records)
    assert len(table.footnotes) == 2
    assert " ".join(rendered(table).split()).count("unstable: the interval is wide") == 1


def test_latex_shortens_a_footnote_without_an_open_parenthesis():
    long = (
        "a tool gives a file (its model computes in float; no kernels " + "x" * 150 + ") so it is"
    )
    text = to_latex(make_table([make_failed(message=long, hint="choose another")]))
    assert "a tool gives a file so it is; choose another" in text


def test_best_speedup_is_one_that_is_shown():
    slower = make_record(recipe=("a",), speedup=0.5)
    unclear = make_record(recipe=("b",), speedup=1.01)
    table = make_table([make_record(), slower, unclear])
    assert cell(table, 2, "speedup_first").noise
    assert not cell(table, 2, "speedup_first").best


def test_best_needs_to_lie_beyond_the_intervals():
    base = make_record(ms=6.0)
    clear = make_record(recipe=("nncf_int8",), ms=3.0)
    assert cell(make_table([base, clear]), 1, "p50_ms").best
    close = make_record(recipe=("nncf_int8",), ms=5.9)
    table = make_table([base, close])
    assert not any(cell(table, i, "p50_ms").best for i in (0, 1))


def test_best_is_never_an_untrusted_or_lone_or_failed_value():
    assert not any(c.best for line in make_table([make_record()]).cells for c in line)
    fast = make_record(recipe=("nncf_int8",), ms=3.0)
    fast.latency[0].stable = False
    fast.latency[0].unstable_reason = "drift"
    table = make_table([make_record(), fast])
    assert not cell(table, 1, "p50_ms").best
    assert any("drift" in note for note in table.footnotes)
    fast.latency[0].stable = True
    fast.status = "parity"
    assert not cell(make_table([make_record(), fast]), 1, "p50_ms").best


def test_best_speedup_competes_within_its_backend_only():
    records = [
        make_record(backend=backend, recipe=(step,), speedup=gain)
        for backend, step, gain in (
            ("openvino", "a", 2.0),
            ("openvino", "b", 3.0),
            ("onnxruntime", "a", 1.2),
            ("onnxruntime", "b", 1.5),
        )
    ]
    table = make_table(records)
    best = {table.rows[i].backend for i in range(4) if cell(table, i, "speedup_first").best}
    assert best == {"openvino", "onnxruntime"}


def test_table_tells_namesakes_apart_by_what_differs():
    records = [
        make_record(recipe=("prune",), steps={"prune": {"pruning_ratio": r, "criterion": "l1"}})
        for r in (0.5, 0.3)
    ]
    recipes = [row.recipe for row in make_table(records).rows]
    assert recipes == ["prune (pruning_ratio=0.3)", "prune (pruning_ratio=0.5)"]


def test_table_data_set_and_machine_columns_only_where_they_differ():
    other = make_record(dataset="imagenette")
    names = [c.name for c in make_table([make_record(), other]).columns]
    assert "dataset" in names
    assert "machine" not in names
    other.environment = {"cpu": {"model": "Another CPU"}}
    assert "machine" in [c.name for c in make_table([make_record(), other]).columns]


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_terminal_table_fits(width):
    lines = rendered(make_table(make_sweep()), width).splitlines()
    assert max(map(len, lines)) <= width
    # a line that was cut would lose the last column: the INT8 share
    assert any(line.rstrip().endswith("27²") for line in lines)
    assert not any(name + "…" in " ".join(lines) for name in ("nncf_in", "fine", "onnx"))


def test_markdown_has_one_line_per_record_and_equal_columns():
    table = make_table(make_sweep())
    rows = markdown_rows(table)
    assert len(rows) == 2 + len(table.rows)
    assert len({len(row) for row in rows}) == 1


def test_markdown_survives_hostile_text():
    record = make_failed(message="a | b\n<script>", hint="")
    record.experiment.model = "m|x"
    table = make_table([record])
    text = to_markdown(table)
    assert "<script>" not in text
    assert "m\\|x" in text
    assert sum(line.startswith("|") for line in text.splitlines()) == 3


def test_csv_holds_plain_numbers():
    record = make_record(recipe=("nncf_int8",), ms=3.1, speedup=1.9, int8=26)
    (row,) = csv.DictReader(io.StringIO(to_csv(make_table([record]))))
    assert float(row["p50_ms_b1"]) == 3.1
    assert float(row["ms_per_sample_b64"]) == pytest.approx(3.1 * 64**0.93 / 64)
    assert float(row["speedup_b1_low"]) == pytest.approx(1.9 * 0.97)
    assert float(row["int8_pct"]) == 50
    assert row["recipe"] == "nncf_int8"


def test_latex_escapes_and_balances():
    text = to_latex(make_table(make_sweep()))
    assert r"nncf\_int8" in text
    assert text.count("{") == text.count("}")
    table = make_table(make_sweep())
    columns = 1 + sum(c.numeric for c in table.columns)
    body = [line for line in text.splitlines() if re.search(r"\\\\(\[-2.5pt\])?$", line)]
    assert len(body) > len(table.rows)
    for line in body:
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        cells = len(re.findall(r"(?<!\\)&", line)) + 1 - len(spans) + sum(spans)
        assert cells == columns, line


numbers = st.floats(0.001, 1000, allow_nan=False)


@given(st.lists(st.tuples(numbers, numbers), max_size=30))
def test_pareto_front_holds_what_nothing_beats(points):
    front = pareto_front(points)
    assert set(front) <= set(points)
    for x, y in points:
        assert any(fx <= x and fy >= y for fx, fy in front)
    for a in front:
        better = [b for b in points if b[0] <= a[0] and b[1] >= a[1] and b != a]
        assert better == []


@given(st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=6))
def test_at_most_one_best_per_column_and_model(values):
    records = [
        make_record(recipe=(f"step{i}",), ms=ms, speedup=ms) for i, (ms, _) in enumerate(values)
    ]
    for record, (_, stable) in zip(records, values, strict=True):
        record.latency[0].stable = stable
    table = make_table(records)
    for i in range(len(table.columns)):
        assert sum(line[i].best for line in table.cells) <= 1
