"""Planted models through whole record files: what is broken is said, what is equal is not accused.

Each round writes records of a baseline and of four candidates whose outputs are scored by the
functions that score an experiment: one that answers one class, one that lost one class of ten, one
that is worse by a given number of points, one that is equal. The records are saved, read back and
judged as a report does. Then rounds of candidates that are exactly at the margins: a claim that
they hold is an error.

    python scripts/bench/accuracy/planted.py [--rounds 100] [--images 2000]

Exit code 1 if something broken was said in fewer than 95 %, or an error made in more than 5 %.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1] / "timing"))
from simulate import PLANS, answers, record_of, timed

from pqbench.core.files import write_json
from pqbench.core.record import Speedup
from pqbench.core.split import PreparedSplit
from pqbench.measure.accuracy import score
from pqbench.report.claims import Cell, Kind, Verdict, judge
from pqbench.report.load import find_records
from pqbench.report.rows import make_rows
from pqbench.report.significance import WORSE as SHOWN_WORSE
from pqbench.report.significance import compare_with_baselines

Labels = npt.NDArray[np.int64]
CLASSES = 10
RECALL = 0.85
MARGIN = 0.01
ONE, LOST, WORSE, EQUAL = "one class", "lost class", "worse", "equal"


def make_split(folder: Path, labels: Labels) -> PreparedSplit:
    """A prepared split that has labels alone."""
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", labels)
    manifest = {
        "name": "val",
        "count": len(labels),
        "classes": [f"class{i}" for i in range(CLASSES)],
        "arrays": ["input"],
        "normalization": {},
        "sources": [f"{i:064x}" for i in range(len(labels))],
        "notes": [],
        "content": "planted",
    }
    write_json(folder / "manifest.json", manifest)
    return PreparedSplit.load(folder)


def logits(predictions: Labels, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Outputs whose highest is the prediction."""
    values = rng.normal(0, 1, (len(predictions), CLASSES))
    values[np.arange(len(predictions)), predictions] = 6.0
    return values.astype(np.float32)


def change(
    theirs: Labels, labels: Labels, lose: float, gain: float, rng: np.random.Generator
) -> Labels:
    """The baseline's answers, of which shares ``lose`` and ``gain`` of all turn wrong and right."""
    right = theirs == labels
    share = np.where(right, lose / right.mean(), gain / (1 - right.mean()))
    flipped = rng.random(len(labels)) < share
    wrong = (labels + rng.integers(1, CLASSES, len(labels))) % CLASSES
    return np.where(flipped, np.where(right, wrong, labels), theirs)


def write_round(
    folder: Path, planted: Mapping[str, Labels], theirs: Labels, labels: Labels,
    speedups: Mapping[str, Speedup], rng: np.random.Generator,
) -> None:  # fmt: skip
    """Score every candidate as an experiment does, and save its record."""
    split = make_split(folder / "split", labels)
    np.save(folder / "baseline.npy", logits(theirs, rng))
    for name, predictions in planted.items():
        place = folder / name.replace(" ", "_")
        place.mkdir()
        np.save(place / "logits.npy", logits(predictions, rng))
        accuracy = score(
            place / "logits.npy", split, place / "predictions.parquet", folder / "baseline.npy"
        )
        record_of(name, [speedups[name]], accuracy).save(place)


def read(folder: Path) -> tuple[dict[str, Cell], set[str]]:
    """The cells of the records below a folder by what was planted, and which are shown worse."""
    records = [record for record, _ in find_records(folder)]
    rows = make_rows(records)
    worse = {
        rows[c.row].record.fingerprint
        for c in compare_with_baselines(rows)
        if c.name == "drop_pt" and c.verdict == SHOWN_WORSE
    }
    return {cell.record.fingerprint: cell for cell in judge(records)}, worse


def planted_round(folder: Path, images: int, drop: float, rng: np.random.Generator) -> Counter[str]:
    """One round of four candidates; counts what was said of each."""
    labels = rng.integers(0, CLASSES, images)
    theirs = answers(labels, np.full(CLASSES, RECALL), rng)
    planted = {
        ONE: np.where(rng.random(images) < 0.01, theirs, 4),
        LOST: np.where(theirs == 3, 8, theirs),
        WORSE: change(theirs, labels, drop + 0.01, 0.01, rng),
        EQUAL: change(theirs, labels, 0.01, 0.01, rng),
    }
    gains = {name: _gain(1.5, rng) for name in planted}
    write_round(folder, planted, theirs, labels, gains, rng)
    cells, worse = read(folder)
    said: Counter[str] = Counter()
    said[ONE] += any(f.startswith("answers one class") for f in cells[ONE].faults)
    said[LOST] += any(f.startswith("lost class 'class3'") for f in cells[LOST].faults)
    said[WORSE] += WORSE in worse and _verdict(cells[WORSE], Kind.DROP) is not Verdict.HOLDS
    said["worse, beyond the margin"] += _verdict(cells[WORSE], Kind.DROP) is Verdict.FAILS
    equal = cells[EQUAL]
    said["equal, accused"] += bool(equal.faults) or EQUAL in worse
    said["equal, an answer"] += equal.answerable
    said["broken, an answer"] += any(cells[name].answerable for name in (ONE, LOST, WORSE))
    return said


def margin_round(folder: Path, images: int, cells: int, rng: np.random.Generator) -> bool:
    """Whether any claim of candidates exactly at the margins was said to hold."""
    labels = rng.integers(0, CLASSES, images)
    theirs = answers(labels, np.full(CLASSES, RECALL), rng)
    planted, gains = {}, {}
    for index in range(cells):
        name = f"cell {index}"
        planted[name] = change(theirs, labels, 0.02 + MARGIN, 0.02, rng)
        gains[name] = _gain(1.0, rng)
    write_round(folder, planted, theirs, labels, gains, rng)
    return any(j.verdict is Verdict.HOLDS for cell in read(folder)[0].values() for j in cell.claims)


def _gain(speedup: float, rng: np.random.Generator) -> Speedup:
    found = timed(PLANS[1], "correlated", speedup, rng).speedup
    assert found is not None
    return found


def _verdict(cell: Cell, kind: Kind) -> Verdict | None:
    judged = cell.claim(kind)
    return judged.verdict if judged else None


def run(rounds: int, images: int, drop: float, cells: int, seed: int) -> dict[str, float]:
    """Shares of the rounds in which each thing was said."""
    rng = np.random.default_rng(seed)
    said: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            said += planted_round(Path(folder) / f"planted{number}", images, drop, rng)
            wrong += margin_round(Path(folder) / f"margin{number}", images, cells, rng)
    names = (ONE, LOST, WORSE, "worse, beyond the margin", "equal, accused", "equal, an answer",
             "broken, an answer")  # fmt: skip
    return {name: said[name] / rounds for name in names} | {"wrong claims": wrong / rounds}


def failures(shares: Mapping[str, float], rounds: int) -> Sequence[str]:
    """What is outside its bounds; of errors at their bound two standard errors are allowed."""
    slack = 2 * math.sqrt(0.05 * 0.95 / rounds)
    return [
        *(name for name in (ONE, LOST, WORSE) if shares[name] < 0.95),
        *(n for n in ("equal, accused", "wrong claims") if shares[n] > 0.05 + slack),
        *(n for n in ("broken, an answer",) if shares[n] > 0.05),
    ]


def main() -> int:
    """Print the shares; 1 if one is outside."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--drop", type=float, default=0.015, help="of the worse one, in shares")
    parser.add_argument("--cells", type=int, default=4, help="of a sweep at the margins")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shares = run(args.rounds, args.images, args.drop, args.cells, args.seed)
    for name, share in shares.items():
        print(f"{name:25} {share:6.1%}")
    bad = failures(shares, args.rounds)
    print(f"outside: {', '.join(bad)}" if bad else "all within bounds")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
