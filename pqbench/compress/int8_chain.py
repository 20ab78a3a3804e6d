"""Which blocks of a chain to quantize: what sets of them are worth, and the best ones.

Where INT8 begins and ends in a network, values are converted, and fusions that cross the border are
lost. So the milliseconds that a set of blocks wins are no sum over its blocks but over its *runs*,
stretches of neighbouring blocks in INT8. With the model timed in INT8 *up to* every cut, and *from*
every cut on, each run's share is a difference of two of those times: where a run begins is paid in
the second series, where it ends in the first. Noise adds up over blocks: rounding errors of
different layers are next to independent, and their powers add.

For a price per unit of noise, dynamic programming along the chain gives the best set; prices from
nought upwards give the sets that are worth a trial, from the fastest to the most exact. Each of
them is measured whole afterwards: a prediction decides what is tried, never what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_PRICES = 200


@dataclass(frozen=True)
class Chain:
    """What blocks of a chain are worth in INT8.

    Attributes:
        until: Milliseconds won with INT8 in the first 1, 2, ... n blocks; n entries.
        since: Milliseconds won with INT8 from block 1, 2, ... n on; n entries.
        noise: Power of the noise in the model's output over that of the output, by block, with
            that block alone in INT8.
    """

    until: Sequence[float]
    since: Sequence[float]
    noise: Sequence[float]

    def run_ms(self, first: int, last: int) -> float:
        """Milliseconds won by a run of blocks, both ends included, counted from 0."""
        return self.until[last] - (self._whole - self.since[first])

    def won_ms(self, chosen: frozenset[int]) -> float:
        """Milliseconds won by a set, as predicted."""
        return sum(self.run_ms(first, last) for first, last in runs(chosen))

    def noise_of(self, chosen: frozenset[int]) -> float:
        """Noise power of a set over the output's power, as predicted."""
        return float(sum(self.noise[block] for block in chosen))

    @property
    def _whole(self) -> float:
        return (self.until[-1] + self.since[0]) / 2

    def best(self, price: float) -> frozenset[int]:
        """The set of largest ``won_ms - price * noise``; empty where nothing is worth it."""
        count = len(self.until)
        # the best of the blocks so far, by whether the last of them is in INT8
        out: tuple[float, frozenset[int]] = (0.0, frozenset())
        inside: tuple[float, frozenset[int]] = (-np.inf, frozenset())
        for block in range(count):
            begin = -(self._whole - self.since[block])
            opened = max((inside, (out[0] + begin, out[1])), key=lambda way: way[0])
            inside = (opened[0] - price * self.noise[block], opened[1] | {block})
            out = max((out, (inside[0] + self.until[block], inside[1])), key=lambda way: way[0])
        return out[1]

    def front(self) -> list[frozenset[int]]:
        """Sets that are best at some price, fastest first; none is empty."""
        powers = [value for value in self.noise if value > 0]
        if not powers:
            return [chosen for chosen in [self.best(0.0)] if chosen]
        top = 10 * (max(abs(v) for v in (*self.until, *self.since)) + 1e-9) / min(powers)
        low = 1e-4 * (abs(self._whole) + 1e-9) / sum(powers)
        prices = [0.0, *np.geomspace(low, max(top, 10 * low), _PRICES)]
        found = dict.fromkeys(self.best(float(price)) for price in prices)
        return [chosen for chosen in found if chosen]


def runs(chosen: frozenset[int]) -> list[tuple[int, int]]:
    """Stretches of neighbours in a set: first and last of each."""
    found: list[tuple[int, int]] = []
    for block in sorted(chosen):
        if found and found[-1][1] == block - 1:
            found[-1] = (found[-1][0], block)
        else:
            found.append((block, block))
    return found
