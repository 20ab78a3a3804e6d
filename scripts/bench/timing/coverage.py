"""Coverage, by simulation, of every interval that pqbench prints, and its family-wise error.

Each line measures something of known truth many times, with the functions that make a record, and
counts how often the 95 % interval holds the truth: 93 to 98 % is wanted. The last lines count how
often a report of 8, 20 or 80 comparisons without any effect claims one (at most 6 %), and how
often claims judged together are wrong (at most 5 %).

    python scripts/bench/timing/coverage.py [--repeats 2000] [--seed 0] > coverage.md
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import simulate
from simulate import NOISES, PLANS, START_SD, Plan

from pqbench.core.proportions import paired_difference, wilson
from pqbench.core.record import Latency, Record, Speedup
from pqbench.measure.faithfulness import calibration, class_mean_intervals
from pqbench.measure.intervals import median_interval
from pqbench.measure.overlap import jackknife, mean_iou, share_interval
from pqbench.measure.segmentation import compare as compare_maps
from pqbench.report.claims import Verdict, judge
from pqbench.report.rows import make_rows
from pqbench.report.significance import BETTER, WORSE, compare_with_baselines

LOW, HIGH = 0.93, 0.98
FAMILY = 0.06
CLAIMS = 0.05
Found = tuple[float | None, float | None]
Floats = simulate.Floats


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        what: The interval, or the kind of error.
        where: Protocol and noise, or the case.
        share: Covered, or in error.
        repeats: Draws behind it; those without an interval are not counted.
        good: Whether it lies where it must, two standard errors of the simulation allowed for.
        allowed: Where that is.
    """

    what: str
    where: str
    share: float
    repeats: int
    good: bool
    allowed: str


def covered(
    what: str,
    where: str,
    truth: float,
    draw: Callable[[], Found],
    repeats: int,
    conservative: bool = False,
) -> Line | None:
    """Draw intervals and count those that hold the truth; None if there hardly ever was one.

    With ``conservative`` more than 98 % is right: nearly always nothing happens (no sample flips),
    or the noise is no noise (a steady drift), and an interval cannot know.
    """
    hits, made = 0, 0
    for _ in range(repeats):
        low, high = draw()
        if low is None or high is None:
            continue
        made += 1
        hits += low - 1e-12 <= truth <= high + 1e-12
    if made < repeats / 10:
        return None
    share = hits / made
    slack = 2 * math.sqrt(0.95 * 0.05 / made)
    high = 1.0 if conservative else HIGH
    return Line(
        what, where, share, made, LOW - slack <= share <= high + slack, f"{LOW:.0%} to {high:.0%}"
    )


def _truths(plan: Plan, noise: str, rng: np.random.Generator) -> dict[float, float]:
    """Percentiles in ms of a typical start of the candidate, of very many calls.

    Starts differ by a factor whose logarithm is 0 on average, which needs no simulation. A start
    lasts as long as it is measured: what wanders more slowly than that is not in the tail
    of a start, but in what differs between starts.
    """
    shares = (0.5, 0.9, 0.95, 0.99)
    logs = []
    for _ in range(300):
        shared = simulate.shared_levels(noise, 2 * plan.pairs, rng)
        turns = np.arange(plan.pairs)
        shared = shared[2 * turns + (turns + rng.integers(2)) % 2]  # first or second of its pair
        levels = shared + simulate.own_levels(noise, plan.pairs, rng)
        calls = [simulate.calls(level, 400, rng, noise) for level in levels]
        logs.append(np.log(np.quantile(np.concatenate(calls) / 1e6, shares)))
    return dict(zip(shares, np.exp(np.mean(logs, axis=0)).tolist(), strict=True))


def timing_lines(
    repeats: int, seed: int, plans: Sequence[Plan] = PLANS, noises: Sequence[str] = NOISES
) -> Iterator[Line | None]:
    """Speedup, median and tails under every protocol and noise."""
    for plan in plans:
        for noise in noises:
            rng = np.random.default_rng([seed, PLANS.index(plan), NOISES.index(noise)])
            where = f"{plan.name}, {noise}"
            results = [simulate.timed(plan, noise, 1.3, rng) for _ in range(repeats)]
            gains = iter([r.speedup for r in results if r.speedup is not None])

            def gain(gains: Iterator[Speedup] = gains) -> Found:
                found = next(gains)
                return found.low, found.high

            sure = noise == "drift"
            yield covered("speedup", where, 1.3, gain, repeats, sure)
            truths = _truths(plan, noise, rng)
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
                times = iter([r.latency for r in results])

                def ends(times: Iterator[Latency] = times, name: str = name) -> Found:
                    found = next(times)
                    if "cannot be told" in found.unstable_reason:
                        return None, None
                    return getattr(found, f"{name}_low_ms"), getattr(found, f"{name}_high_ms")

                tail = share > 0.5  # its interval holds LoadGen's conservative value
                what = f"latency {name}"
                yield covered(what, where, truths[share], ends, repeats, sure or tail)


def accuracy_lines(repeats: int, seed: int) -> Iterator[Line | None]:
    """Shares near 0 and 1, paired drops, class means with rare classes, calibration.

    A share of few samples is discrete: at one true value an interval may hold it in 89 % or in
    100 % of cases. So the true value is drawn anew each time, within the range that is named.
    """
    rng = np.random.default_rng([seed, 100])
    for count in (50, 320, 5000):
        for low, high in ((0.0, 0.1), (0.1, 0.9), (0.9, 1.0)):

            def one(count: int = count, low: float = low, high: float = high) -> Found:
                share = rng.uniform(low, high)
                ends = wilson(int(rng.binomial(count, share)), count)
                return _moved(ends, share)

            yield covered("accuracy, recall", f"{count}, {low:g} to {high:g}", 0, one, repeats)
        for flips in (0.01, 0.05, 0.3):

            def drop(count: int = count, flips: float = flips) -> Found:
                lose = rng.uniform(0, flips)
                won = rng.uniform(0, flips)
                lost, gained, _ = rng.multinomial(count, [lose, won, 1 - lose - won])
                return _moved(paired_difference(int(lost), int(gained), count), lose - won)

            where = f"{count}, up to {flips:g} flipped"
            yield covered("drop", where, 0, drop, repeats, count * flips < 3)
    for name, prior, recall in (
        ("10 even classes", np.full(10, 0.1), np.full(10, 0.9)),
        ("10 even classes, nearly all right", np.full(10, 0.1), np.full(10, 0.99)),
        ("2 classes, one weak", np.array([0.69, 0.31]), np.array([0.95, 0.5])),
        ("a rare class", np.array([0.9, 0.07, 0.03]), np.array([0.97, 0.8, 0.6])),
    ):
        labels = rng.choice(len(prior), 1_000_000, p=prior)
        truth = class_mean_intervals(simulate.answers(labels, recall, rng), labels)
        for count in (320, 2000):
            for figure in ("balanced_accuracy", "macro_f1"):

                def mean(
                    prior: Floats = prior,
                    recall: Floats = recall,
                    count: int = count,
                    figure: str = figure,
                ) -> Found:
                    labels = rng.choice(len(prior), count, p=prior)
                    found = class_mean_intervals(simulate.answers(labels, recall, rng), labels)
                    return found[figure][1:]

                where = f"{count}, {name}"
                yield covered(figure.replace("_", " "), where, truth[figure][0], mean, repeats)
    for over in (0.0, 0.03, 0.1):
        for count in (320, 2000):

            def gap(over: float = over, count: int = count) -> Found:
                probability = 0.5 + 0.5 * rng.beta(4, 1, count)
                right = rng.random(count) < probability - over
                found = calibration(right, probability.astype(np.float32))
                return found[1], found[2]

            yield covered("calibration error", f"{count}, {over:g}", over, gap, repeats, over == 0)


def _moved(ends: tuple[float, float], truth: float) -> Found:
    """The interval of the error, whose truth is 0, for a truth that changes with each draw."""
    return ends[0] - truth, ends[1] - truth


def map_lines(repeats: int, seed: int) -> Iterator[Line | None]:
    """Mean IoU and its drop, by image."""
    rng = np.random.default_rng([seed, 200])
    for name, quality, present in (
        ("2 classes", np.array([0.97, 0.8]), np.array([1.0, 0.8])),
        ("4 good classes", np.array([0.98, 0.97, 0.96, 0.95]), np.array([1, 1, 0.9, 0.8])),
        ("6 classes", np.linspace(0.95, 0.5, 6), np.array([1, 1, 0.9, 0.8, 0.7, 0.6])),
    ):
        worse = quality - 0.03
        truth = float(mean_iou(simulate.class_maps(100_000, quality, present, rng).sum(0)))
        other = float(mean_iou(simulate.class_maps(100_000, worse, present, rng).sum(0)))
        for images in (8, 30, 200):

            def miou(
                quality: Floats = quality, present: Floats = present, images: int = images
            ) -> Found:
                counts = simulate.class_maps(images, quality, present, rng)
                if ((counts[..., 1] > 0).sum(0) < 3).any():
                    return None, None  # the record says: too few images
                return share_interval(jackknife(mean_iou, counts))

            def drop(
                quality: Floats = quality,
                worse: Floats = worse,
                present: Floats = present,
                images: int = images,
            ) -> Found:
                theirs = simulate.class_maps(images, quality, present, rng)
                ours = simulate.class_maps(images, worse, present, rng)
                if ((theirs[..., 1] > 0).sum(0) < 3).any() or ((ours[..., 1] > 0).sum(0) < 3).any():
                    return None, None
                found = compare_maps(ours, theirs, 0.9)
                return found.drop_low_pt, found.drop_high_pt

            where = f"{images} images, {name}"
            yield covered("mIoU", where, truth, miou, repeats)
            yield covered("mIoU drop", where, 100 * (truth - other), drop, repeats)


def family_lines(
    repeats: int,
    seed: int,
    plans: Sequence[Plan] = PLANS[:4],
    sizes: Sequence[int] = (8, 20, 80),
) -> Iterator[Line]:
    """Reports without any effect that claim one, and claims that are wrong."""
    for plan in plans:
        for comparisons in sizes:
            rng = np.random.default_rng([seed, 300, comparisons, plan.starts])
            wrong = sum(_claims_an_effect(plan, comparisons, rng) for _ in range(repeats))
            yield _error("family-wise error", f"{plan.name}, {comparisons}", wrong, repeats, FAMILY)
    for cells in (4, 20):
        rng = np.random.default_rng([seed, 400, cells])
        sweeps = 4 * repeats
        wrong = sum(_claims_wrongly(cells, rng) for _ in range(sweeps))
        yield _error("wrong claims", f"{cells} cells at the margins", wrong, sweeps, CLAIMS)


def energy_lines(repeats: int, seed: int) -> Iterator[Line | None]:
    """Energy per sample and its ratio: one round in each start."""
    rng = np.random.default_rng([seed, 500])
    for rounds in (3, 5, 8, 20):

        def energy(rounds: int = rounds) -> Found:
            return median_interval(np.exp(rng.normal(0, 0.03, rounds)))

        yield covered("energy", f"{rounds} rounds", 1.0, energy, repeats)


def _error(what: str, where: str, wrong: int, repeats: int, limit: float) -> Line:
    slack = 2 * math.sqrt(0.05 * 0.95 / repeats)
    share = wrong / repeats
    return Line(what, where, share, repeats, share <= limit + slack, f"at most {limit:.0%}")


def _null_record(plan: Plan, index: int, rng: np.random.Generator, gain: float) -> Record:
    """A record whose speedup is ``gain``, straight from the starts' ratios, and whose drop is 0."""
    noise = NOISES[index % len(NOISES)]
    gains = [simulate.timed(plan, noise, gain, rng).speedup]
    labels = rng.integers(0, 10, 320)
    theirs = simulate.answers(labels, np.full(10, 0.9), rng)
    change = rng.random(320) < 0.1
    ours = np.where(change, simulate.answers(labels, np.full(10, 0.9), rng), theirs)
    accuracy = simulate.accuracy_of(ours, theirs, labels)
    return simulate.record_of(f"r{index}", [g for g in gains if g is not None], accuracy)


def _claims_an_effect(plan: Plan, comparisons: int, rng: np.random.Generator) -> bool:
    """Half of the comparisons are drops, half speedups, none with an effect."""
    records = [_null_record(plan, i, rng, 1.0) for i in range(comparisons // 2)]
    rows = make_rows([simulate.record_of("baseline"), *records])
    return any(c.verdict in (BETTER, WORSE) for c in compare_with_baselines(rows))


def _claims_wrongly(cells: int, rng: np.random.Generator) -> bool:
    """Every claim false, and as hard to tell as can be: exactly at its margin."""
    records = []
    for index in range(cells):
        ratios = np.exp(rng.normal(0, START_SD, 5))
        lost, gained, _ = rng.multinomial(2000, [0.03, 0.02, 0.95])
        records.append(simulate.margin_record(f"c{index}", ratios, int(lost), int(gained), 2000))
    return any(j.verdict is Verdict.HOLDS for cell in judge(records) for j in cell.claims)


def lines(repeats: int, seed: int, small: bool = False) -> Iterator[Line]:
    """Every line of the table; with ``small`` two protocols and two noises, for tests."""
    noises = ("correlated", "heavy") if small else NOISES
    plans = PLANS[:2] if small else PLANS
    yield from filter(None, timing_lines(repeats, seed, plans, noises))
    yield from filter(None, accuracy_lines(repeats, seed))
    yield from filter(None, map_lines(repeats, seed))
    yield from filter(None, energy_lines(repeats, seed))
    reports = max(repeats // 4, 40)
    if small:
        yield from family_lines(reports, seed, PLANS[:2], (8,))
    else:
        yield from family_lines(reports, seed)


def main() -> int:
    """Print the table; 1 if a line is outside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--repeats", type=int, default=2000, help="draws of each line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="two protocols and two noises")
    parser.add_argument("--only", default="", help="lines whose first column contains this")
    args = parser.parse_args()
    print("| interval or error | case | share | draws | wanted |\n| --- | --- | --- | --- | --- |")
    bad = 0
    for line in lines(args.repeats, args.seed, args.small):
        if args.only not in line.what:
            continue
        mark = "" if line.good else " **outside**"
        bad += not line.good
        print(
            f"| {line.what} | {line.where} | {line.share:.1%}{mark} | {line.repeats} | "
            f"{line.allowed} |",
            flush=True,
        )
    return 1 if bad else 0


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    sys.exit(main())
