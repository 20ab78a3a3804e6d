"""Captions of tables and figures: what is shown, of what, on how many samples, on which machine."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pqbench.report.rows import Row


def caption(what: str, rows: Sequence[Row], sizes: Collection[int | str] = ()) -> str:
    """What is shown, of which models, on how many samples, at which batch sizes, on what.

    For example ``Speedup of ResNet-18 on ELPV val (n = 525); batch size 1; CPU, 2 threads.``

    Args:
        what: The first words.
        rows: What is shown; of those without a result only the names, where there is no other.
        sizes: Batch sizes.
    """
    good = [row for row in rows if row.status == "ok"] or rows
    counted = [f"{r.dataset} (n = {r.count})" if r.count else r.dataset for r in good]
    text = f"{what} of {few([r.model for r in good])} on {few(counted)}"
    if sizes:
        text += f"; batch size{'s' if len(sizes) > 1 else ''} {few(list(map(str, sizes)), 12)}"
    threads = dict.fromkeys(str(t) for r in good if (t := r.record.config.get("threads")))
    text += f"; {few([r.machine for r in good])}"
    noun = "thread" if list(threads) == ["1"] else "threads"
    return text + (f", {few(list(threads))} {noun}" if threads else "") + "."


def few(names: Sequence[str], most: int = 3) -> str:
    """The different ones in words."""
    different = list(dict.fromkeys(names))
    if len(different) > most:
        return f"{', '.join(different[: most - 1])} and {len(different) - most + 1} more"
    return " and ".join([", ".join(different[:-1]), different[-1]][len(different) < 2 :])
