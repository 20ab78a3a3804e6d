"""Figures of what lies beside the records: every timed call, and the layers' sensitivity."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.record import Record
from pqbench.report.environments import record_keys
from pqbench.report.rows import Row, metric_name
from pqbench.report.style import Look, crowded, enough, legend, legend_below, panels, scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LAYERS = 40
log = logging.getLogger(__name__)
_SAMPLES = "latency"  # names in a record's ``files``
_SENSITIVITY = "sensitivity"
_MAX_CURVES = 12  # of one panel
_MORE = f" {_MAX_CURVES} recipes per panel at most."


def raw_figures(
    records: Sequence[Record],
    rows: Sequence[Row],
    look: Look,
    folders: Mapping[tuple[str, str], Path],
    max_panels: int,
) -> Iterator[tuple[str, Figure]]:
    """The figures for which there are files; none without ``folders``."""
    beside = []
    for key, record, row in zip(record_keys(records), records, rows, strict=True):
        folder = folders.get(key) if record.ok else None
        if folder is not None:
            beside.append((record, row, folder))
    timed = [(record, row, folder) for record, row, folder in beside if _samples(record, folder)]
    if timed:
        yield "latency_distribution", _distributions(timed, look, max_panels)
    layers = [(row, read) for record, row, folder in beside if (read := _layers(record, folder))]
    if layers:
        yield "layer_sensitivity", _sensitivity(layers, max_panels)


def _samples(record: Record, folder: Path) -> Path | None:
    path = record.path(folder, _SAMPLES)
    return path if path is not None and path.is_file() and record.latency else None


def _times_ms(path: Path, batch_size: int) -> Any:
    """Timed calls of the candidate at one batch size, in ms, sorted; (n,) float64.

    Of quiet blocks, or of all where no block was quiet.
    """
    import numpy as np
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(
            path,
            columns=["ns", "disturbed"],
            filters=[
                ("batch_size", "=", batch_size),
                ("side", "=", "candidate"),
            ],
        )
    except (OSError, ValueError, KeyError) as error:  # ValueError: every error of Arrow's format
        log.warning("skipped: %s is damaged: %s", path, error)
        return np.empty(0)
    times, disturbed = table["ns"].to_numpy(), table["disturbed"].to_numpy()
    return np.sort(times if disturbed.all() else times[~disturbed]) / 1e6


def _distributions(
    timed: Sequence[tuple[Record, Row, Path]], look: Look, max_panels: int
) -> Figure:
    """Empirical distribution of single calls at the smallest batch; the tail is cut at p99.5."""
    import numpy as np

    note = (
        "Share of timed calls that took at most so long, tail cut at 99.5 %. Quiet blocks only; "
        "all blocks where none was quiet."
    )
    places = list(dict.fromkeys((r.model, r.backend, r.dataset, r.machine) for _, r, _ in timed))
    several = [i for i in (2, 3) if len({p[i] for p in places}) > 1]
    shown, note = enough(places, max_panels, "panels", note)
    figure, axes = panels(len(shown), 3.1, 2.7)
    ends: dict[tuple[str, ...], list[float]] = {place: [] for place in shown}
    drawn: set[str] = set()
    for ax, place in zip(axes, shown, strict=True):
        here = [t for t in timed if (t[1].model, t[1].backend, t[1].dataset, t[1].machine) == place]
        if len(here) > _MAX_CURVES and _MORE not in note:
            note += _MORE
        batch = min(x.batch_size for record, _, _ in here for x in record.latency)
        for _, row, folder_file in ((r, w, _samples(r, f)) for r, w, f in here[:_MAX_CURVES]):
            times = _times_ms(folder_file, batch) if folder_file else []
            if len(times) == 0:
                continue
            kept = times[: max(1, int(len(times) * 0.995))]
            share = np.arange(1, len(kept) + 1) / len(times)
            ends[place] += [float(kept[0]), float(kept[-1])]
            drawn.add(row.recipe)
            ax.plot(kept, 100 * share, color=look.colour(row.recipe), linewidth=1.2,
                    linestyle=look.line(row.recipe), marker=look.marker(row.recipe), markersize=5,
                    markevery=[len(kept) // 2])  # fmt: skip
        ax.set_ylim(0, 100)
        ax.set_title(" · ".join(place[i] for i in (0, 1, *several)))
        ax.set_xlabel(f"latency of one call at batch {batch} [ms]")
        spec = ax.get_subplotspec()
        if spec is not None and spec.is_first_col():
            ax.set_ylabel("share of calls [%]")
    log = any(map(crowded, ends.values()))  # all panels alike, one range per model
    for ax, place in zip(axes, shown, strict=True):
        of_model = [v for p, values in ends.items() if _rival(p, place) for v in values]
        if of_model:
            scale(ax, "x", of_model, log or crowded(of_model))
    legend(figure, look, drawn, set(), note)
    return figure


def _rival(place: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two panels, of model, backend, data set and machine, may be compared."""
    return (place[0], *place[2:]) == (other[0], *other[2:])


def _layers(record: Record, folder: Path) -> dict[str, float]:
    """Drop of accuracy by layer, in percentage points, from the record's sensitivity file.

    The file is JSON: an object of layer name to drop, or a list of objects with ``layer`` and
    ``drop_pt``. Empty without one.
    """
    path = record.path(folder, _SENSITIVITY)
    if path is None or not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        items = (
            value.items()
            if isinstance(value, dict)
            else ((x["layer"], x["drop_pt"]) for x in value)
        )
        return {str(layer): float(drop) for layer, drop in items}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("no sensitivity in %s: %s", path, error)
        return {}


def _sensitivity(layers: Sequence[tuple[Row, dict[str, float]]], max_panels: int) -> Figure:
    shown, note = enough(layers, max_panels, "panels", "Each layer compressed alone.")
    most = max(len(drops) for _, drops in shown)
    longest = min(MAX_LAYERS, most)
    if most > longest:
        note += f" At most the {longest} with the largest drop."
    figure, axes = panels(len(shown), 4.2, 1.2 + 0.16 * longest)
    for ax, (row, drops) in zip(axes, shown, strict=True):
        worst = sorted(drops.items(), key=lambda item: -item[1])[:MAX_LAYERS]
        names = [name for name, _ in worst]
        ax.barh(range(len(worst)), [drop for _, drop in worst], color="#0072B2",
                edgecolor="black", linewidth=0.4)  # fmt: skip
        ax.set_yticks(range(len(worst)), names, fontsize=6)
        ax.set_ylim(len(worst) - 0.4, -0.6)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.grid(visible=False, axis="y")
        ax.set_title(f"{row.model} · {row.backend}\n{row.recipe}")
        ax.set_xlabel(f"drop of {metric_name([row])} [pt]")
    legend_below(figure, [], 1, note)
    return figure
