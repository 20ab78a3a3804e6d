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
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import simulate
from coverage_of_scores import accuracy_lines, map_lines
from covered import Found, Line, covered
from simulate import NOISES, PLANS, START_SD, Plan

from pqbench.core.record import Latency, Record, Speedup
from pqbench.measure.intervals import median_interval
from pqbench.report.claims import Verdict, judge
from pqbench.report.rows import make_rows
from pqbench.report.significance import BETTER, WORSE, compare_with_baselines

FAMILY = 0.06
CLAIMS = 0.05


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
