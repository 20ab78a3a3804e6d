"""Write docs/layers.md: where the time of FP32 and INT8 goes, layer by layer, measured now.

    python scripts/layers_page.py outputs/sweeps/TIME/1_mobilenetv3_ort_int8_ort ...

Each record is compared with its baseline, as ``pqbench layers`` does it; the figures go to
docs/images/. What stands above "Measured" is written by hand and stays. Run it on a quiet machine:
the page says by how much the layers miss the timed difference, and names no layer where that is too
much.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pqbench.core.record import Record
from pqbench.layers import STARTS, find_sides, measure
from pqbench.machine.describe import describe
from pqbench.report.environments import machine
from pqbench.report.escape import markdown
from pqbench.report.estimate import Estimate
from pqbench.report.layers import LayerTable
from pqbench.report.layers_view import figure, verdict

DOCS = Path(__file__).resolve().parents[1] / "docs"
SHOWN = 12
MARK = "## Measured"


def section(table: LayerTable, title: str, image: str) -> list[str]:
    """Heading, what is said, the layers that changed most, the figure."""
    chosen = table.largest()[:SHOWN]
    heads = ["layer", "operators", *(f"{name} [ms]" for name in table.sessions),
             "of it conversions", "change [ms]"]  # fmt: skip
    lines = [heads, ["---"] * 2 + ["---:"] * (len(heads) - 2)]
    for layer in (layer for layer in table.layers if layer in chosen):
        converted = layer.conversions_ms[-1]
        lines.append(
            [
                markdown(layer.name),
                markdown(", ".join(layer.operators)),
                *(f"{ms.value:.3f}" for ms in layer.ms),
                f"{converted:.3f}" if converted >= 0.0005 else "",
                interval(layer.change) + (" *" if layer.shown else ""),
            ]
        )
    rest = [layer for layer in table.layers if layer not in chosen]
    sides = range(len(table.sessions))
    sums = {
        f"{len(rest)} more": [sum(x.ms[i].value for x in rest) for i in sides],
        "sum": [sum(x.ms[i].value for x in table.layers) for i in sides],
        "timed": [ms.value for ms in table.timed_ms],
    }
    changes = {
        f"{len(rest)} more": f"{sum(x.change.value for x in rest):+.3f}",
        "sum": interval(table.total_change),
        "timed": interval(table.timed_change),
    }
    for name, values in sums.items():
        lines.append([name, "", *(f"{v:.3f}" for v in values), "", changes[name]])
    return [
        f"## {title}",
        "",
        *(f"{markdown(line)}  " for line in verdict(table)),
        "",
        *(f"| {' | '.join(line)} |" for line in lines),
        "",
        f"![Milliseconds of the layers that changed most]({image})",
        "",
    ]


def interval(value: Estimate) -> str:
    """With its ends."""
    return f"{value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--starts", type=int, default=STARTS)
    arguments = parser.parse_args()
    page = DOCS / "layers.md"
    parts = [page.read_text(encoding="utf-8").partition(MARK)[0]]
    for number, path in enumerate(arguments.records):
        sides = find_sides([path])
        table = measure(sides, 1, arguments.starts)
        what = sides[-1].record.experiment
        image = f"images/layers_{what.model}_{what.backend}.png"
        figure(table).savefig(DOCS / image, dpi=110)
        if number == 0:
            record = sides[-1].record
            here = Record(**{**vars(record), "environment": describe(record.config["threads"])})
            parts.append(
                f"{MARK}\n\n"
                f"On {machine(here)}, {record.config['threads']} threads, batch 1, "
                f"{arguments.starts} starts, by `python scripts/layers_page.py`; inputs: "
                f"{what.dataset}, weights: {record.config['model']['weights']} (times alone are of "
                "interest). \\*: shown to have changed, after Holm's correction over the layers.\n"
            )
        title = f"{what.model}, {what.recipe_name} on {what.backend}"
        parts.append("\n".join(section(table, title, image)))
        print("\n".join([title, *verdict(table)]), flush=True)
    page.write_text("".join([parts[0], "\n".join(parts[1:])]).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
