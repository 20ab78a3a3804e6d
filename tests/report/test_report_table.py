import csv
import dataclasses
import io
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import make_failed, make_record, make_sweep
from rich.console import Console

from pqbench.report.latex import to_latex
from pqbench.report.plots_accuracy import pareto_front
from pqbench.report.render import to_csv, to_markdown
from pqbench.report.table import NONE, make_table
from pqbench.report.terminal import to_rich


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
    del first[("MobileNetV3-Large", "tensorrt")]  # its baseline is not among the records
    assert set(first.values()) == {"baseline"}


def test_table_shows_value_interval_and_unit():
    table = make_table([make_record(), make_record(recipe=("nncf_int8",), ms=3.1, speedup=1.9)])
    p50 = cell(table, 1, "p50_ms_b1")
    assert (p50.text, p50.detail) == ("3.16", "3.05…3.27")  # 6.00 over 1.90
    speedup = cell(table, 1, "speedup_b1")
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
    assert cell(table, 1, "p50_ms_b1").text == "\u2013"
    for text in (to_markdown(table), rendered(table), to_latex(table), to_csv(table)):
        assert "unavailable" in text
    assert "no driver was found" in rendered(table)


def test_table_slowdown_is_shown_and_explained():
    table = make_table(make_sweep())
    row = next(i for i, r in enumerate(table.rows) if r.recipe == "ort_int8" and r.score_pct)
    slow = cell(table, row, "speedup_b1")
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
    assert "Left out in 100 columns" in rendered(table, 100)
    assert "%], clean" not in rendered(table, 100).partition("Left out")[0]
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


def test_unstable_and_disturbed_are_signs_with_one_line_in_the_legend():
    records = [make_record(), *(make_record(recipe=(step,)) for step in ("a", "b"))]
    records[0].latency[-1].stable = False
    records[0].latency[-1].unstable_reason = "known to 12 % only"
    for record in records[1:]:
        record.speedup[0].disturbed = True
    table = make_table(records)
    assert table.footnotes == ()
    assert [cell(table, i, "p50_ms_b1").flag for i in range(3)] == ["", *["disturbed"] * 2]
    assert cell(table, 0, "ms_per_sample_b64").why.endswith("known to 12 % only")
    for text in (rendered(table), to_markdown(table), to_latex(table)):
        words = " ".join(text.replace("\\", "").split())
        assert words.count("too few blocks free of other load") == 1
        assert words.count("known less well") == 1
    assert "known to 12 % only" in to_csv(table)


def test_terminal_heads_each_group_with_one_line():
    long = "a_model_with_a_name_that_is_long_enough"
    records = [make_record(long), make_record(long, recipe=("nncf_int8",), speedup=2.0)]
    lines = rendered(make_table(records), 80).splitlines()
    (heading,) = [line for line in lines if long in line]
    assert heading.strip().endswith("openvino")
    rows = [line for line in lines if line.startswith(("baseline  ", "nncf_int8  "))]
    assert len({line.index(".") for line in rows}) == 1  # figures stand below each other


def test_terminal_has_at_most_one_line_of_notes_for_a_row():
    records = [make_record(recipe=(step,), int8=4) for step in ("a_int8", "b_int8")]
    for record in records:
        record.notes = ["said of both", "the other thing " * 20, record.experiment.recipe_name]
        record.accuracy, record.reasons["accuracy"] = None, f"no labels of {record.experiment}"
    records[1].notes.append("once more")
    table = make_table(records)
    assert len(table.footnotes) > 3
    text = rendered(table)
    notes = [line for line in text.splitlines() if line.startswith(tuple("¹²³⁴⁵⁶⁷⁸⁹"))]
    assert len(notes) <= len(records) + 1  # and what both have, once
    assert max(map(len, notes)) <= 120


def test_terminal_colours_the_mark_of_a_recipe_with_several_steps_and_no_letter_of_it():
    record = make_record(recipe=("prune", "nncf_int8"))
    record.notes = ["something is to be said"]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(to_rich(make_table([record]), 120))
    segments = [(s.text, str(s.style)) for s in console._record_buffer]
    (place,) = [i for i, (text, _) in enumerate(segments) if "prune + nncf" in text]
    assert segments[place][0].strip() == "prune + nncf_int8"
    assert segments[place + 1] == ("¹", "yellow")


def test_unsupported_rows_are_one_line():
    rows = [
        make_failed(backend="torch", recipe=(step,), status="unsupported")
        for step in ("nncf_int8", "ort_int8")
    ]
    table = make_table([make_record(), *rows])
    for text in (rendered(table), to_latex(table)):
        (line,) = [line for line in text.splitlines() if "nsupported" in line]
        assert "2 combinations" in line
        assert "ort" in line
    assert to_markdown(table).count("unsupported") >= 2  # every row can be found there
    alone = rendered(make_table(rows[:1]))
    assert "no driver was found" in alone  # what was asked for is said in full


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_terminal_leaves_out_the_least_important_columns_first(width):
    table = make_table(make_sweep())
    text = rendered(table, width)
    said = next((x for x in text.splitlines() if x.startswith("Left out")), "")
    kept = [c.rank for c in table.columns if c.numeric and c.header not in said]
    assert kept
    assert 1 in kept  # the speedup
    assert (width >= 120) == (said == "")


def test_latex_shortens_a_footnote_without_an_open_parenthesis():
    long = (
        "a tool gives a file (its model computes in float; no kernels " + "x" * 150 + ") so it is"
    )
    text = to_latex(make_table([make_failed(message=long, hint="choose another")]))
    assert "a tool gives a file so it is" in text
    assert "choose another" not in text  # a thesis needs no hint what to type


def test_best_speedup_is_one_that_is_shown():
    slower = make_record(recipe=("a",), speedup=0.5)
    unclear = make_record(recipe=("b",), speedup=1.01)
    table = make_table([make_record(), slower, unclear])
    assert cell(table, 2, "speedup_b1").noise
    assert not cell(table, 2, "speedup_b1").best


def test_best_is_never_slower_than_the_baseline():
    slow, slower = make_record(recipe=("a",), speedup=0.92), make_record(recipe=("b",), speedup=0.5)
    table = make_table([make_record(), slow, slower])
    assert not cell(table, 1, "speedup_b1").noise
    assert not any(cell(table, row, "speedup_b1").best for row in range(3))


def test_best_needs_to_lie_beyond_the_intervals():
    base = make_record(ms=6.0)
    clear = make_record(recipe=("nncf_int8",), ms=3.0, speedup=2.0)
    assert cell(make_table([base, clear]), 1, "p50_ms_b1").best
    close = make_record(recipe=("nncf_int8",), ms=5.9, speedup=1.02)
    table = make_table([base, close])
    assert not any(cell(table, i, "p50_ms_b1").best for i in (0, 1))


def test_best_is_never_an_untrusted_or_lone_or_failed_value():
    assert not any(c.best for line in make_table([make_record()]).cells for c in line)
    fast = make_record(recipe=("nncf_int8",), ms=3.0, speedup=2.0)
    fast.speedup[0].disturbed = True
    table = make_table([make_record(), fast])
    assert not cell(table, 1, "p50_ms_b1").best
    assert cell(table, 1, "p50_ms_b1").why.startswith("disturbed")
    fast.speedup[0].disturbed = False
    assert cell(make_table([make_record(), fast]), 1, "p50_ms_b1").best
    fast.status = "parity"
    assert not cell(make_table([make_record(), fast]), 1, "p50_ms_b1").best


def test_latency_has_one_anchor_and_agrees_with_the_speedup():
    base = make_record(ms=5.22)
    slower = make_record(recipe=("nncf_int8",), ms=8.61, speedup=2.28)  # its own run was slow
    table = make_table([base, slower])
    shown = cell(table, 1, "p50_ms_b1")
    assert float(shown.text) == pytest.approx(5.22 / 2.28, abs=0.01)
    (line,) = [x for x in csv.DictReader(io.StringIO(to_csv(table))) if x["recipe"] != "baseline"]
    assert float(line["own_p50_ms_b1"]) == 8.61
    assert float(line["p50_ms_b1"]) == pytest.approx(5.22 / 2.28)
    low, high = (math.log(float(line[f"p50_ms_b1_{end}"])) for end in ("low", "high"))
    centre = math.log(5.22 / 2.28)
    # both errors, on the logarithmic scale
    assert centre - low == pytest.approx(math.hypot(math.log(1 / 0.985), math.log(1.03)))
    assert high - centre == pytest.approx(math.hypot(math.log(1.02), math.log(1 / 0.97)))


def test_latency_without_a_baseline_among_the_records_agrees_with_its_namesakes():
    records = [
        make_record(recipe=(step,), ms=ms, speedup=2.0) for step, ms in (("a", 3.0), ("b", 3.6))
    ]
    assert len({cell(make_table(records), i, "p50_ms_b1").text for i in (0, 1)}) == 1


def test_unpaired_median_never_wins():
    base, slow = make_record(ms=6.0), make_record(recipe=("a",), ms=2.0, speedup=0.5)
    assert not any(cell(make_table([base, slow]), i, "p50_ms_b1").best for i in (1,))
    unpaired = make_record(recipe=("b",), ms=1.0)
    unpaired.speedup = []
    table = make_table([base, unpaired])
    assert not any(cell(table, i, "p50_ms_b1").best for i in (0, 1))
    (note,) = cell(table, 1, "p50_ms_b1").notes
    assert "not measured in turns" in table.footnotes[note - 1]
    elsewhere = make_record(backend="onnxruntime", ms=1.0)
    assert not any(c.best for c in make_table([base, elsewhere]).cells[0])


def test_row_of_another_day_says_so():
    base = make_record(created="2026-11-18T10:00:00+00:00")
    later = make_record(recipe=("nncf_int8",), speedup=2.0)
    (number,) = cell(make_table([base, later]), 1, "recipe").notes
    note = make_table([base, later]).footnotes[number - 1]
    assert note == ("measured 2026-11-20, the baseline that its latency refers to 2026-11-18")
    base.created = "2026-11-20T00:00:00+00:00"
    assert not cell(make_table([base, later]), 1, "recipe").notes


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
    best = {table.rows[i].backend for i in range(4) if cell(table, i, "speedup_b1").best}
    assert best == {"openvino", "onnxruntime"}


def test_table_tells_namesakes_apart_by_what_differs():
    records = [
        make_record(recipe=("prune",), steps={"prune": {"pruning_ratio": r, "criterion": "l1"}})
        for r in (0.5, 0.3)
    ]
    recipes = [row.recipe for row in make_table(records).rows]
    assert recipes == ["prune (pruning_ratio=0.3)", "prune (pruning_ratio=0.5)"]


def test_table_names_a_setting_that_follows_another_once_and_counts_naturally():
    records = [make_record(recipe=("prune",)) for _ in range(3)]
    for record, seed in zip(records, (10, 2, 0), strict=True):
        record.config = {"seed": seed, "fit": {"seed": seed, "epochs": 3}}
    recipes = [row.recipe for row in make_table(records).rows]
    assert recipes == ["prune (seed=0)", "prune (seed=2)", "prune (seed=10)"]


def test_table_tells_settings_of_one_name_apart_by_their_step():
    records = [make_record(recipe=("prune", "finetune")) for _ in range(3)]
    for record, (a, b) in zip(records, ((1, 1), (1, 2), (2, 2)), strict=True):
        record.config = {"compress": {"prune": {"epochs": a}, "finetune": {"epochs": b}}}
    assert [row.recipe.partition(" (")[2] for row in make_table(records).rows] == [
        "compress.prune.epochs=1, compress.finetune.epochs=1)",
        "compress.prune.epochs=1, compress.finetune.epochs=2)",
        "compress.prune.epochs=2, compress.finetune.epochs=2)",
    ]


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
    # a line that was cut would lose the end of its last column
    assert any(line.endswith("0.83…0.88") or "0.83…0.88 " in line for line in lines)
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
    assert float(row["own_p50_ms_b1"]) == 3.1
    assert float(row["p50_ms_b1"]) == pytest.approx(3.1)
    assert float(row["ms_per_sample_b64"]) == pytest.approx(3.1 * 64**0.93 / 64 / 1.1)
    assert float(row["speedup_b1_low"]) == pytest.approx(1.9 * 0.97)
    assert float(row["int8_pct"]) == 50
    assert row["recipe"] == "nncf_int8"


def test_latex_escapes_and_balances():
    text = to_latex(make_table(make_sweep()))
    assert r"my\_step" in to_latex(make_table([make_record(recipe=("my_step",))]))
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
        record.speedup[0].disturbed = not stable
    table = make_table(records)
    for i in range(len(table.columns)):
        assert sum(line[i].best for line in table.cells) <= 1


def test_names_in_print_are_those_of_the_papers_and_csv_has_the_configurations():
    record = make_record("efficientnet_lite0", dataset="cifar10")
    other = make_record("my_net")
    table = make_table([record, other])
    for text in (rendered(table), to_markdown(table), to_latex(table)):
        assert "EfficientNet-Lite0" in text
        assert "CIFAR-10" in text
        assert "efficientnet" not in text
    assert [row["model"] for row in csv.DictReader(io.StringIO(to_csv(table)))] == [
        "efficientnet_lite0",
        "my_net",
    ]


EVIL = "\x1b]0;gone\x07=cmd|' /C calc'!A0 *b* _i_ [x](http://y) `c` <b> & \u202e | $x$ 50 %"


@pytest.mark.parametrize("place", ["model", "message", "note", "reason"])
def test_text_of_a_record_does_nothing_where_it_is_printed(place):
    record = make_failed(message=EVIL) if place == "message" else make_record()
    if place == "model":
        record.experiment.model = EVIL
    record.notes = [EVIL] if place == "note" else []
    if place == "reason":
        record.accuracy, record.reasons["accuracy"] = None, EVIL
    table = make_table([record])
    for text in (rendered(table, 400), to_markdown(table), to_latex(table)):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
    assert "\\x1b]0;gone" in rendered(table, 400)
    markdown = to_markdown(table)
    assert "<b>" not in markdown
    assert "[x](http" not in markdown
    assert "\\*b\\*" in markdown
    assert r"\$x\$ 50 \%" in to_latex(table)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_csv_cell_that_a_spreadsheet_would_run_is_text(start):
    record = make_record()
    record.experiment.model = f"{start}cmd"
    record.accuracy.against_baseline = None
    record.notes = [f"{start}1+1"]
    (row,) = csv.DictReader(io.StringIO(to_csv(make_table([record]))))
    assert row["model"] == f"'{start}cmd"
    assert row["notes"].startswith("'")
    drop = make_record(recipe=("a",), drop_pt=-1.5)
    (row,) = csv.DictReader(io.StringIO(to_csv(make_table([drop]))))
    assert float(row["drop_pt"]) == -1.5  # a number stays one


def test_latex_caption_names_models_data_batch_sizes_and_machine():
    text = to_latex(make_table([make_record(), make_record(recipe=("nncf_int8",), speedup=2.0)]))
    (caption,) = re.findall(r"\\caption\{(.*)\}", text)
    assert caption == (
        "Accuracy, latency, speedup and size after compression of MobileNetV3-Large on ELPV val "
        "(n = 525); batch sizes 1 and 64; Example CPU @ 2.10GHz, 2 threads."
    )


def test_a_host_of_the_same_processor_with_other_memory_or_limits_is_another():
    records = [make_record(), make_record(backend="ort"), make_record(backend="torch")]
    for record, total, quota in zip(records, (16, 16, 32), (None, 1.5, None), strict=True):
        record.environment = {
            **record.environment,
            "memory": {"total_bytes": total * 2**30},
            "container": {"cpu_quota": quota},
        }
    machines = {row.machine for row in make_table(records).rows}
    assert len(machines) == 3
    assert any("32 GiB" in name for name in machines)
    assert any("CPU quota 1.5" in name for name in machines)


@pytest.mark.parametrize("width", [80, 100])
def test_terminal_does_not_cut_a_long_name(width):
    text = rendered(make_table([make_record("efficientnet_lite0"), make_record("my_net")]), width)
    assert "EfficientNet-Lite0" in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("factor, told", [(1.01, False), (1.3, True)])
def test_legend_tells_where_the_machines_own_speed_changed(factor, told):
    candidates = [make_record(recipe=(name,), ms=3.0, speedup=2.0) for name in ("a", "b", "c")]
    for record, slower in zip(candidates, (1.0, factor, 1 / factor), strict=True):
        for gain in record.speedup:
            gain.baseline_p50_ms *= slower
    table = make_table([make_record(ms=6.0), *candidates])
    assert ("The machine's own speed changed" in table.legend) is told
    shown = [i for i, c in enumerate(table.columns) if not c.name.startswith("p50_ms")]
    assert "own speed" not in table.legend_of(shown)
