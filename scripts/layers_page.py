"""Write the measured part of docs/layers.md from folders that ``pqbench layers`` wrote.

    pqbench layers RECORD --out DIR > DIR/said.txt
    python scripts/layers_page.py --starts 8 "MobileNetV3-Large, OpenVINO=DIR" ...

The tables come from DIR/layers.csv, the sentences from DIR/said.txt, the figures go to
docs/images/. What stands above "Measured" is written by hand and stays.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
from pathlib import Path

from pqbench.machine.describe import describe
from pqbench.report.escape import markdown

PAGE = Path(__file__).resolve().parents[1] / "docs" / "layers.md"
MARK = "## Measured"
SHOWN = 12
SAID = re.compile(r"^(A call took|The layers add up|No |Slower|Faster)")


def table(path: Path) -> list[str]:
    """The layers that changed most, the others together, and the sum."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    times = [name for name in rows[0] if name.endswith(" [ms]") and "conversions" not in name]
    sides = [name for name in times if name != "change [ms]"]
    conversions = f"{sides[-1].removesuffix(' [ms]')} conversions [ms]"
    chosen = sorted(rows, key=lambda row: -abs(float(row["change [ms]"])))[:SHOWN]
    lines = [["layer", "operators", *sides, "of it conversions", "change [ms]"]]
    lines.append(["---"] * 2 + ["---:"] * (len(sides) + 2))
    for row in (row for row in rows if row in chosen):
        moved = float(row[conversions])
        change, low, high = (float(row[f"change {x}"]) for x in ("[ms]", "low", "high"))
        shown = " *" if row["shown"] == "yes" else ""
        lines.append(
            [
                markdown(row["layer"]),
                markdown(row["operators"].replace(" ", ", ")),
                *(f"{float(row[side]):.3f}" for side in sides),
                f"{moved:.3f}" if moved >= 0.0005 else "",
                f"{change:+.3f} [{low:+.3f}, {high:+.3f}]{shown}",
            ]
        )
    rest = [row for row in rows if row not in chosen]
    for name, some in ((f"{len(rest)} more", rest), ("sum", rows)):
        sums = [sum(float(row[column]) for row in some) for column in (*sides, conversions)]
        change = sum(float(row["change [ms]"]) for row in some)
        lines.append([name, "", *(f"{value:.3f}" for value in sums), f"{change:+.3f}"])
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", metavar="TITLE=DIR")
    parser.add_argument("--starts", required=True, help="as they were given to pqbench layers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--note", default="", help="what a reader must know of the measurement")
    arguments = parser.parse_args()
    cpu = describe(arguments.threads)["cpu"]["model"]
    parts = [
        PAGE.read_text(encoding="utf-8").partition(MARK)[0].rstrip(),
        f"{MARK}\n\nOn {cpu}, {arguments.threads} threads, batch 1, {arguments.starts} "
        f"starts. {arguments.note} \\*: shown to have changed, after Holm's correction over the "
        "layers.".replace("  ", " "),
    ]
    for given in arguments.folders:
        title, _, folder = given.rpartition("=")
        image = "layers_" + re.sub(r"\W+", "_", title.lower()) + ".png"
        shutil.copyfile(Path(folder) / "layers.png", PAGE.parent / "images" / image)
        said = (Path(folder) / "said.txt").read_text(encoding="utf-8").splitlines()
        sentences = [markdown(line) for line in said if SAID.match(line)]
        figure = f"![Milliseconds of the layers that changed most](images/{image})"
        parts += [f"### {title}", "\n".join(f"{line}  " for line in sentences).rstrip(),
                  "\n".join(table(Path(folder) / "layers.csv")), figure]  # fmt: skip
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
