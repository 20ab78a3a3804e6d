"""The search for the blocks that pay in INT8: measure, predict, try whole sets, keep one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.compress.int8_blocks import Block
from pqbench.compress.int8_chain import Chain, runs
from pqbench.compress.int8_trials import (
    Clock,
    Feed,
    Run,
    Timed,
    in_turns,
    noise_power,
    outputs,
    right,
)
from pqbench.core.proportions import drop_upper

PAYS = "pays"
Build = Callable[[Collection[int], Path, bool], None]


@dataclass(frozen=True)
class Effort:
    """How much the search may do.

    Attributes:
        block_s: Seconds of calls in a timed block.
        turns: Pairs of blocks for each model that is timed once for the prediction.
        final_turns: Pairs of blocks for a set whose speedup is judged.
        tries: Sets that are built and scored whole, at most.
    """

    block_s: float
    turns: int
    final_turns: int
    tries: int


@dataclass(frozen=True)
class Images:
    """The images of a search, none in two of the parts.

    Attributes:
        noise: For the noise of single blocks.
        scored: Held apart: for the drop of whole sets.
        labels: (n,) of ``scored``: classes.
    """

    noise: Sequence[Feed]
    scored: Sequence[Feed]
    labels: npt.NDArray[Any]


@dataclass(frozen=True)
class Tried:
    """A set that was built whole.

    Attributes:
        blocks: Numbers of the blocks in INT8, from 0.
        predicted_ms: Milliseconds won, as predicted.
        predicted_sqnr_db: Signal to noise of the outputs, as predicted.
        sqnr_db: The same, measured on the images that are scored.
        drop: Share of right answers lost on them; the set is taken or refused by this estimate.
        drop_upper: Upper bound of that, one-sided at 97.5 %, to be read beside it.
        agreement: Share of answers that are those of the float model.
        timed: Time and speedup; None where the drop was too large to time it.
        verdict: ``kept``, or why not.
    """

    blocks: tuple[int, ...]
    predicted_ms: float
    predicted_sqnr_db: float
    sqnr_db: float
    drop: float
    drop_upper: float
    agreement: float
    timed: Timed | None
    verdict: str

    @property
    def speedup(self) -> float:
        """Over the float model; 0 where it was not timed."""
        return self.timed.speedup if self.timed else 0.0


class Search:
    """The search over one model.

    Args:
        blocks: Of the float model.
        build: Writes the model with some blocks in INT8, with or without corrections.
        open_: Opens a file on the runtime with so many threads.
        reference: File of the float model.
        threads: That a set's speedup is judged with. Cuts are timed with one: on virtual machines
            that stands still where two jump by a third.
        images: Of the search.
        effort: How much it may do.
        folder: For files that are thrown away.
        clock: Tells nanoseconds.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        build: Build,
        open_: Callable[[Path, int], Run],
        reference: Path,
        threads: int,
        images: Images,
        effort: Effort,
        folder: Path,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        self.blocks, self.build, self.open = blocks, build, open_
        self.reference, self.threads = reference, threads
        self.images, self.effort = images, effort
        self.folder, self.clock = folder, clock
        self.tried: list[Tried] = []

    def measure(self) -> Chain:
        """Time the model in INT8 up to each cut and from each cut on; the noise block by block."""
        count = len(self.blocks)
        exact_run = self.open(self.reference, 1)
        exact = outputs(exact_run, self.images.noise)
        until: list[Timed] = []
        since: list[Timed] = []
        noise = []
        for number in range(count):
            until.append(self._part(range(number + 1), exact_run))
            since.append(self._part(range(number, count), exact_run))
            self.build({number}, self.folder / "one.onnx", True)
            run = self.open(self.folder / "one.onnx", 1)
            noise.append(noise_power(exact, outputs(run, self.images.noise)))
        float_ms = float(np.median([timed.float_ms for timed in (*until, *since)]))
        won = [[float_ms * timed.won_share for timed in series] for series in (until, since)]
        return Chain(won[0], won[1], noise)

    def _part(self, chosen: Collection[int], reference: Run) -> Timed:
        self.build(set(chosen), self.folder / "part.onnx", False)
        run = self.open(self.folder / "part.onnx", 1)
        return self._timed(reference, run, self.effort.turns)

    def _timed(self, reference: Run, run: Run, turns: int) -> Timed:
        feed, block_s = self.images.noise[0], self.effort.block_s
        return in_turns(reference, run, feed, turns, block_s, self.clock)

    def choose(self, chain: Chain, max_drop: float) -> tuple[frozenset[int], Path] | None:
        """Try sets, and keep the fastest that is within the drop and shown to be faster.

        Both are judgements of a search, not results: the drop is a point estimate on the images
        scored, and the bound of the speedup is of the turns of one pair of sessions.

        Args:
            chain: Of :meth:`measure`.
            max_drop: Largest drop of the share of right answers.

        Returns:
            The set and its file; None where none is both.
        """
        front = chain.front()
        whole = frozenset(range(len(self.blocks)))
        reference = self.open(self.reference, self.threads)
        exact = outputs(reference, self.images.scored)
        kept: tuple[frozenset[int], Path] | None = None
        best: Tried | None = None
        for number, chosen in enumerate(_spaced(front, self.effort.tries, whole)):
            file = self.folder / f"try_{number}.onnx"
            found = self._try(chosen, chain, reference, exact, file, max_drop)
            if found.verdict == PAYS and (best is None or found.speedup > best.speedup):
                best, kept = found, (chosen, file)
            self.tried.append(found)
        self.tried = [
            replace(tried, verdict="kept" if tried is best else "slower than the set kept")
            if tried.verdict == PAYS
            else tried
            for tried in self.tried
        ]
        return kept

    def _try(
        self,
        chosen: frozenset[int],
        chain: Chain,
        reference: Run,
        exact: npt.NDArray[np.float64],
        file: Path,
        max_drop: float,
    ) -> Tried:
        self.build(chosen, file, True)
        run = self.open(file, self.threads)
        rounded = outputs(run, self.images.scored)
        answers = exact.reshape(len(exact), -1).argmax(axis=1)
        labels = self.images.labels
        before, after = right(exact, labels), right(rounded, labels)
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        drop = (lost - gained) / len(labels)
        timed, verdict = None, f"drop above {100 * max_drop:g} points"
        if drop <= max_drop:
            timed = self._timed(reference, run, self.effort.final_turns)
            verdict = PAYS if timed.lower > 1 else "not shown to be faster than FP32"
        return Tried(
            blocks=tuple(sorted(chosen)),
            predicted_ms=chain.won_ms(chosen),
            predicted_sqnr_db=_db(chain.noise_of(chosen)),
            sqnr_db=_db(noise_power(exact, rounded)),
            drop=drop,
            drop_upper=drop_upper(lost, gained, len(labels), 0.975),
            agreement=float((answers == rounded.reshape(len(exact), -1).argmax(axis=1)).mean()),
            timed=timed,
            verdict=verdict,
        )

    def plan(self, chain: Chain, chosen: frozenset[int]) -> dict[str, Any]:
        """What was found, JSON-ready: the blocks with what they are worth, and the sets tried."""
        return {
            "blocks": [
                {
                    "name": block.name,
                    "nodes": list(block.nodes),
                    "int8": number in chosen,
                    "won_ms_until": chain.until[number],
                    "won_ms_since": chain.since[number],
                    "won_ms_alone": chain.run_ms(number, number),
                    "noise": chain.noise[number],
                }
                for number, block in enumerate(self.blocks)
            ],
            "runs": [[self.blocks[i].name for i in ends] for ends in runs(chosen)],
            "tried": [_plain(tried) for tried in self.tried],
        }


def _plain(tried: Tried) -> Mapping[str, Any]:
    return {**asdict(tried), "blocks": list(tried.blocks)}


def _db(noise: float) -> float:
    return float(-10 * np.log10(max(noise, 1e-30)))


def _spaced(
    front: Sequence[frozenset[int]], tries: int, whole: frozenset[int]
) -> list[frozenset[int]]:
    """All blocks, and sets of the front spread evenly from its fastest to its most exact.

    With one try the fastest alone, as it is predicted.
    """
    places = np.unique(np.linspace(0, len(front) - 1, max(tries - 1, 1)).round().astype(int))
    picked = [front[place] for place in places] if front else []
    return list(dict.fromkeys([*picked[:1], whole, *picked[1:]]))[:tries]
