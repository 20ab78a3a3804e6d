import io
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image
from record_factory import make_failed, make_record, make_sweep
from rich.console import Console

from pqbench.core.ownership import MARKER
from pqbench.report import __main__ as report
from pqbench.report.plots import save_plots
from pqbench.report.style import Look, legend, panels
from pqbench.report.summary import Pointers, print_summary

FIGURES = {"accuracy_latency", "accuracy_size", "speedup", "latency_batch"}
TEXTS = {
    "report.html", "answer.json", "answer.md", "answer.tex",
    "table.md", "table.csv", "table.tex", "batches.md", "batches.csv",
    "batches.tex", "settings.md", "settings.csv", "settings.tex", "references.bib",
    "significance.csv", "methods.md", "methods.tex", "report.tex", "figures.tex",
}  # fmt: skip


def save_all(records, folder: Path) -> None:
    for i, record in enumerate(records):
        (folder / str(i)).mkdir(parents=True)
        record.save(folder / str(i))


def test_report_command_writes_every_file(tmp_path, capsys):
    save_all(make_sweep(), tmp_path / "sweep")
    assert report.main([str(tmp_path / "sweep"), "--out", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    figures = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")}
    assert names == figures | TEXTS | {MARKER}
    for name in FIGURES:
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 5  # something is drawn
    out = capsys.readouterr().out
    assert "12 experiments: 10 ok, 1 failed, 1 unavailable" in out


def test_report_command_without_records_says_so(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert report.main([str(tmp_path / "nowhere")]) == 2
    assert "no record.json below" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], set()),
        ([make_failed()], set()),
        ([make_record(batches=(1,))], {"accuracy_latency", "accuracy_size"}),
        ([make_record(recipe=("nncf_int8",))], FIGURES),
    ],
    ids=["none", "failed", "one batch", "candidate"],
)
def test_plots_only_what_there_is(records, expected, tmp_path):
    assert {path.stem for path in save_plots(records, tmp_path)} == expected


def test_plots_many_recipes_and_wide_ranges(tmp_path):
    records = [make_record(recipe=(f"step{i}",), ms=0.05 * 2**i) for i in range(14)]
    assert {path.stem for path in save_plots(records, tmp_path)} == FIGURES


@pytest.mark.filterwarnings("error")  # Matplotlib warns where a legend leaves no room at all
def test_plots_a_long_legend_takes_no_room_from_the_panels():
    heights = []
    for count in (3, 24):
        figure, axes = panels(1, 3.1, 2.7)
        recipes = {f"step{i}" for i in range(count)}
        legend(figure, Look(tuple(recipes), ("ort",)), recipes, set(), "a note")
        heights.append(axes[0].get_position().height * figure.get_figheight())
    assert heights[1] > 0.8 * heights[0]


def test_plots_leave_matplotlib_settings_alone(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    save_plots([make_record()], tmp_path)
    assert dict(mpl.rcParams) == before


def test_summary_prints_links_whole(tmp_path):
    console = Console(width=60, file=io.StringIO())
    url = "http://127.0.0.1:5000/#/compare-runs?runs=%5B%22" + "a" * 200 + "%22%5D"
    pointers = Pointers(
        folder=tmp_path, files=(tmp_path / "table.md",), mlflow_command="mlflow ui --x 'a b'",
        runs_url="http://127.0.0.1:5000/#/experiments/1/runs", compare_url=url,
        problem="[1 of 2] not tracked",
    )  # fmt: skip
    print_summary([make_record(), make_failed()], console, pointers)
    text = console.file.getvalue()
    for part in (url, "mlflow ui --x 'a b'", pointers.runs_url, "[1 of 2] not tracked"):
        assert part in text
    assert "2 experiments: 1 ok, 1 unavailable" in text


def test_summary_without_records(tmp_path):
    console = Console(width=60, file=io.StringIO())
    print_summary([], console, Pointers(folder=tmp_path))
    assert "no experiments" in console.file.getvalue()


def test_report_piped_into_a_reader_that_stops_ends_well(tmp_path):
    save_all(make_sweep(), tmp_path / "sweep")
    command = f"{sys.executable} -m pqbench.report sweep --no-plots --hide unavailable | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_latency_front_is_of_one_backend_and_without_a_model_that_lost_a_class(monkeypatch):
    from pqbench.core.record import Faithfulness
    from pqbench.report import plots_accuracy

    fronts = []
    real = plots_accuracy.pareto_front
    monkeypatch.setattr(
        plots_accuracy, "pareto_front", lambda points: fronts.append(list(points)) or real(points)
    )
    records = [
        make_record(backend=backend, recipe=recipe, ms=6.0, speedup=2.0)
        for backend in ("openvino", "onnxruntime")
        for recipe in ((), ("a",))
    ]
    records[1].accuracy.faithfulness = Faithfulness(
        "cat", 1.0, "cat", 0.9, 0.5, faults=["answers one class"]
    )
    with tempfile.TemporaryDirectory() as folder:
        save_plots(records, Path(folder))
    assert sorted(map(len, fronts)) == [1, 2, 3]  # latency: one and two; size: all that may
