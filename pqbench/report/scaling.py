"""What more threads and larger batches buy: speedup over threads, what does not scale, advice.

For records of one experiment that differ in ``threads``. The share that does not scale is fitted by
Amdahl's law, ``T(n) = a + b / n`` (Amdahl, AFIPS 1967), by least squares of the relative errors
with neither part below 0. Medians of different runs are not paired: their ratio has the interval of
both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pqbench.report.estimate import Estimate
from pqbench.report.names import backend_name, in_print
from pqbench.report.rows import Row
from pqbench.report.style import enough, legend_below, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENOUGH = 0.95  # of the highest throughput: what comes after it buys nothing
HEADER = (
    *("model", "backend", "recipe", "batch", "threads", "ms", "ms low", "ms high"),
    *("samples per s", "speedup over 1", "low", "high", "serial share %"),
)
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = "os^DvPXp"


@dataclass(frozen=True)
class Scaling:
    """One experiment at several thread counts.

    Attributes:
        model: For print.
        backend: For print.
        recipe: For print, without the threads.
        ms: Latency of a call by batch size and threads.
    """

    model: str
    backend: str
    recipe: str
    ms: Mapping[int, Mapping[int, Estimate]]

    @property
    def name(self) -> str:
        """``MobileNetV3-Large · OpenVINO``, with the recipe where there is one."""
        recipe = "" if self.recipe == "baseline" else f" · {self.recipe}"
        return f"{self.model} · {self.backend}{recipe}"

    def speedup(self, batch: int, threads: int) -> Estimate | None:
        """Over the fewest threads that were timed."""
        times = self.ms[batch]
        first = min(times)
        if threads == first:
            return Estimate(1.0, 1.0, 1.0)
        return times[first].divided(times[threads]) if threads in times else None

    def serial_share(self, batch: int) -> float | None:
        """Share, 0..1, of one thread's time that more threads do not shorten."""
        return serial_share({n: time.value for n, time in self.ms[batch].items()})

    def throughput(self, batch: int, threads: int) -> float:
        """Samples per second."""
        return 1e3 * batch / self.ms[batch][threads].value

    def choice(self) -> tuple[int, int]:
        """Fewest threads, then smallest batch, that reach ``ENOUGH`` of the highest throughput."""
        points = [(n, b) for b, times in self.ms.items() for n in times]
        most = max(self.throughput(b, n) for n, b in points)
        return min((n, b) for n, b in points if self.throughput(b, n) >= ENOUGH * most)

    def advice(self) -> str:
        """One sentence."""
        threads, batch = self.choice()
        plural = "s" if threads > 1 else ""
        text = (
            f"{self.name}: {threads} thread{plural}, batch {batch} "
            f"({self.throughput(batch, threads):.0f} samples/s); more buys nothing."
        )
        first, most = min(self.ms), max(self.ms[min(self.ms)])
        gain, share = self.speedup(first, most), self.serial_share(first)
        if gain is not None and share is not None:
            text += (
                f" At batch {first}, {most} threads are {gain.value:.2f} [{gain.low:.2f}, "
                f"{gain.high:.2f}] times as fast as {min(self.ms[first])}; {share:.0%} of the time "
                "does not scale."
            )
        return text


def serial_share(ms: Mapping[int, float]) -> float | None:
    """The fitted share, 0..1, of one thread's time that does not scale; None below two counts.

    Args:
        ms: Time of a call by the number of threads.
    """
    import numpy as np
    from scipy.optimize import nnls

    if len(ms) < 2:
        return None
    counts, times = np.array(list(ms)), np.array(list(ms.values()))
    system = np.stack([1 / times, 1 / counts / times], axis=1)
    (fixed, shared), _ = nnls(system, np.ones(len(times)))
    return float(fixed / (fixed + shared)) if fixed + shared > 0 else None


def scalings(rows: Sequence[Row]) -> list[Scaling]:
    """Every experiment among the rows that was timed with several thread counts."""
    found: dict[tuple[str, ...], dict[int, dict[int, Estimate]]] = {}
    for row in rows:
        threads = row.record.config.get("threads")
        if row.status != "ok" or not isinstance(threads, int):
            continue
        recipe = row.record.experiment.recipe_name if row.record.experiment.recipe else "baseline"
        key = (row.model, backend_name(row.backend), in_print(recipe), row.dataset)
        for size, value in row.latency_ms.items():
            found.setdefault(key, defaultdict(dict))[size][threads] = value
    return [
        Scaling(key[0], key[1], key[2], ms)
        for key, ms in found.items()
        if any(len(times) > 1 for times in ms.values())
    ]


def table_rows(found: Sequence[Scaling]) -> list[tuple[str, ...]]:
    """Every point as text, for ``HEADER``."""
    lines = []
    for one in found:
        for batch, times in sorted(one.ms.items()):
            share = one.serial_share(batch)
            for threads, ms in sorted(times.items()):
                gain = one.speedup(batch, threads)
                ends = (gain.value, gain.low, gain.high) if gain else ()
                lines.append(
                    (
                        *(one.model, one.backend, one.recipe, str(batch), str(threads)),
                        *(f"{value:.4g}" for value in (ms.value, ms.low, ms.high)),
                        f"{one.throughput(batch, threads):.4g}",
                        *(f"{value:.3f}" for value in ends),
                        "" if share is None else f"{100 * share:.0f}",
                    )
                )
    return lines


def figures(rows: Sequence[Row], most: int) -> Iterator[tuple[str, Figure]]:
    """Speedup over threads and throughput over batches; none where threads do not vary.

    Args:
        rows: With names as in print.
        most: Panels of a figure.
    """
    found = scalings(rows)
    if not found:
        return
    yield "scaling_threads", _over_threads(found, most)
    if any(len(one.ms) > 1 for one in found):
        yield "scaling_batches", _over_batches(found, most)


def _over_threads(found: Sequence[Scaling], most: int) -> Figure:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, NullLocator

    shown, note = enough(found, most, "panels", "Dotted: as many times as threads.")
    sizes = sorted({size for one in shown for size in one.ms})
    sizes = sizes if len(sizes) <= 4 else [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    figure, axes = panels(len(shown), 3.1, 2.7)
    for ax, one in zip(axes, shown, strict=True):
        counts = sorted({n for times in one.ms.values() for n in times})
        ax.plot(counts, [n / counts[0] for n in counts], ":", color="#7F7F7F", linewidth=1)
        for index, size in enumerate(s for s in sizes if s in one.ms):
            gains = [(n, one.speedup(size, n)) for n in counts]
            known = [(n, gain) for n, gain in gains if gain is not None]
            values = [gain.value for _, gain in known]
            ends = [
                [max(gain.value - gain.low, 0) for _, gain in known],
                [max(gain.high - gain.value, 0) for _, gain in known],
            ]
            ax.errorbar(
                [n for n, _ in known], values, yerr=ends, color=_COLOURS[index % len(_COLOURS)],
                marker=_MARKERS[index % len(_MARKERS)], linewidth=1.2, capsize=2.5, markersize=4,
            )  # fmt: skip
        ax.set_title(one.name)
        ax.set_xlabel("threads")
        ax.xaxis.set_major_locator(FixedLocator(counts))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
    axes[0].set_ylabel("times as fast as 1 thread")
    handles = [
        Line2D([], [], color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)],
               label=f"batch {size}")
        for i, size in enumerate(sizes)
    ]  # fmt: skip
    legend_below(figure, handles, 4, f"{note} Error bars: 95 % intervals.")
    return figure


def _over_batches(found: Sequence[Scaling], most: int) -> Figure:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    shown, note = enough(found, most, "panels", "Ring: enough; more buys nothing.")
    counts = sorted({n for one in shown for times in one.ms.values() for n in times})
    figure, axes = panels(len(shown), 3.1, 2.7)
    for ax, one in zip(axes, shown, strict=True):
        for index, threads in enumerate(counts):
            sizes = [b for b in sorted(one.ms) if threads in one.ms[b]]
            ax.plot(
                sizes, [one.throughput(b, threads) for b in sizes],
                color=_COLOURS[index % len(_COLOURS)], marker=_MARKERS[index % len(_MARKERS)],
                linewidth=1.2, markersize=4,
            )  # fmt: skip
        threads, batch = one.choice()
        ax.plot(batch, one.throughput(batch, threads), "o", markersize=12, fillstyle="none",
                color="#D55E00")  # fmt: skip
        ax.set_title(one.name)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(sorted(one.ms)))
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
        ax.set_xlabel("batch size")
    axes[0].set_ylabel("samples per second")
    handles = [
        Line2D([], [], color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)],
               label=f"{n} thread{'s' if n > 1 else ''}")
        for i, n in enumerate(counts)
    ]  # fmt: skip
    legend_below(figure, handles, 4, note)
    return figure
