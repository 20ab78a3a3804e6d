"""How often ``search=best`` ends in a wrong answer where no recipe deserves to be one.

Simulated spaces of 30 cells (one model, nine recipes, three runtimes) in which no recipe has an
effect that may be claimed: either each loses exactly the margin and is 1.3 times as fast, or loses
nothing and is exactly as fast as FP32, or both lie at their margins. The race chooses among them
by its looks, what it measured in full is judged with the claims that the report counts, and an
answer with a recipe in it is wrong. The aim: at most 5 of 100::

    python scripts/bench/timing/search_errors.py --spaces 300
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

# Speedup over FP32 on the same runtime, and share of right answers lost.
NULLS = {
    "1 point lost, 1.3 times as fast": (1.3, 0.01),
    "nothing lost, as fast": (1.0, 0.0),
    "1 point lost, as fast": (1.0, 0.01),
}


def wrong(folder: Path, seed: int, null: tuple[float, float]) -> bool:
    """Whether a search of such a space ends with a recipe."""
    from race_world import World, race

    from pqbench.report.answer import answers
    from pqbench.report.load import find_records

    world = World(folder, seed, models=("small",))
    for key in world.truth:
        if key[1] != "none":
            world.truth[key] = null
    run = race(world)
    run.run()
    records = [record for record, _ in find_records(folder)]
    found = answers(records, unseen=run.race.unseen) if records else []
    return any(one.best is not None and one.best.record.experiment.recipe for one in found)


def main() -> int:
    """Print each null's share; 1 if one is above the aim beyond chance."""
    from pqbench.core.proportions import wilson

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--spaces", type=int, default=300)
    given = parser.parse_args()
    missed = False
    for name, null in NULLS.items():
        with tempfile.TemporaryDirectory() as scratch:
            count = sum(wrong(Path(scratch) / str(s), s, null) for s in range(given.spaces))
        low, high = wilson(count, given.spaces)
        missed |= low > 0.05
        print(f"{name}: {count} of {given.spaces} wrong, {low:.1%} to {high:.1%}", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
