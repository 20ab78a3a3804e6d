"""The search for the blocks that pay in INT8: measure, predict, try whole sets, keep one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
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

log = logging.getLogger(__name__)
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
        drop: Share of right answers lost on them.
        drop_upper: Upper bound of that, one-sided at 97.5 %.
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


class Search:
    """The search over one model.

    Args:
        blocks: Of the float model.
        build: Writes the model with some blocks in INT8, with or without corrections.
        open_: Opens a file on the runtime.
        reference: The float model, opened.
        images: Of the search.
        effort: How much it may do.
        folder: For files that are thrown away.
        clock: Tells nanoseconds.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        build: Build,
        open_: Callable[[Path], Run],
        reference: Run,
        images: Images,
        effort: Effort,
        folder: Path,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        self.blocks, self.build, self.open = blocks, build, open_
        self.reference, self.images, self.effort = reference, images, effort
        self.folder, self.clock = folder, clock
        self.tried: list[Tried] = []

    def measure(self) -> Chain:
        """Time the model in INT8 up to each cut and from each cut on; the noise block by block."""
        count = len(self.blocks)
        exact = outputs(self.reference, self.images.noise)
        until, since, noise = [], [], []
        for number in range(count):
            until.append(self._won(range(number + 1)))
            since.append(self._won(range(number, count)))
            self.build({number}, self.folder / "one.onnx", True)
            run = self.open(self.folder / "one.onnx")
            noise.append(noise_power(exact, outputs(run, self.images.noise)))
            log.debug("block %s: noise %.2e", self.blocks[number].name, noise[-1])
        return Chain(until, since, noise)

    def _won(self, chosen: Collection[int]) -> float:
        self.build(set(chosen), self.folder / "part.onnx", False)
        run = self.open(self.folder / "part.onnx")
        return self._timed(run, self.effort.turns).won_ms

    def _timed(self, run: Run, turns: int) -> Timed:
        feed, block_s = self.images.noise[0], self.effort.block_s
        return in_turns(self.reference, run, feed, turns, block_s, self.clock)

    def choose(self, chain: Chain, max_drop: float) -> tuple[frozenset[int], Path] | None:
        """Try sets, fastest first, until one is within the drop and shown to be faster.

        Args:
            chain: Of :meth:`measure`.
            max_drop: Largest drop of the share of right answers.

        Returns:
            The set and its file; None where none is both.
        """
        front = chain.front()
        whole = frozenset(range(len(self.blocks)))
        exact = outputs(self.reference, self.images.scored)
        kept: tuple[frozenset[int], Path] | None = None
        for number, chosen in enumerate(_spaced(front, self.effort.tries, whole)):
            file = self.folder / f"try_{number}.onnx"
            found = self._try(chosen, chain, exact, file, max_drop)
            self.tried.append(found)
            log.info(
                "    INT8 in %d of %d blocks: drop %+.2f points, %s", len(chosen),
                len(whole), 100 * found.drop, found.verdict,
            )  # fmt: skip
            if found.verdict == "kept":
                kept = (chosen, file)
                break
        return kept

    def _try(
        self,
        chosen: frozenset[int],
        chain: Chain,
        exact: npt.NDArray[np.float64],
        file: Path,
        max_drop: float,
    ) -> Tried:
        self.build(chosen, file, True)
        run = self.open(file)
        rounded = outputs(run, self.images.scored)
        answers = exact.reshape(len(exact), -1).argmax(axis=1)
        labels = self.images.labels
        before, after = right(exact, labels), right(rounded, labels)
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        drop = (lost - gained) / len(labels)
        timed, verdict = None, f"drop above {100 * max_drop:g} points"
        if drop <= max_drop:
            timed = self._timed(run, self.effort.final_turns)
            verdict = "kept" if timed.lower > 1 else "not shown to be faster than FP32"
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
    """All blocks, and sets of the front spread evenly from its fastest to its most exact."""
    places = np.unique(np.linspace(0, len(front) - 1, max(tries - 1, 1)).round().astype(int))
    picked = [front[place] for place in places] if front else []
    return list(dict.fromkeys([*picked[:1], whole, *picked[1:]]))
