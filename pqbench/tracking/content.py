"""What of a record goes into MLflow: name, params, metrics, tags and description. Pure functions.

Names are made for MLflow's pages: the part before a slash becomes a section of the charts page, a
unit or batch size ends the name, and there are few enough params to read in one column.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pqbench.core.record import Record

MIB = 2**20
_TAG_LIMIT = 8000  # MLflow cuts longer tag values and notes
_PARAM_LIMIT = 6000
_NOT_SETTINGS = ("_target_", "name")


def run_name(record: Record) -> str:
    """Recipe, backend and model, e.g. ``nncf_int8 · openvino · mobilenetv3``.

    What differs most often within a sweep comes first, for MLflow's pages cut long names.
    """
    experiment = record.experiment
    recipe = "baseline" if record.is_baseline else experiment.recipe_name
    return f"{recipe} · {experiment.backend} · {experiment.model}"


def params(record: Record) -> dict[str, str]:
    """What was chosen, short: the four choices first, then the settings of steps and backend.

    MLflow's compare page opens with the first three differing params of the alphabet: ``backend``,
    ``model`` and ``recipe``, which is why settings are named ``runtime.`` and ``step.``.
    """
    experiment, config = record.experiment, record.config
    values: dict[str, Any] = {
        "model": experiment.model,
        "dataset": experiment.dataset,
        "split": experiment.split,
        "recipe": experiment.recipe_name,
        "backend": experiment.backend,
        "weights": experiment.weights,
        "batch_sizes": config.get("protocol", {}).get("batch_sizes")
        or [x.batch_size for x in record.latency],
        "threads": record.placement.threads if record.placement else config.get("threads"),
        "seed": config.get("seed"),
    }
    for step in experiment.recipe:
        values |= dict(_leaves(config.get("compress", {}).get(step), f"step.{step}"))
    values |= dict(_leaves(config.get("backend"), "runtime"))
    if record.placement:
        values["runtime.precision"] = record.placement.precision  # as read back
    return {
        key[:250]: _short(value)[:_PARAM_LIMIT]
        for key, value in values.items()
        if value is not None and value != []
    }


def metrics(record: Record) -> dict[str, float]:
    """What was measured, in the order in which a run's page shows it.

    A value that is null, or not finite, is left out. Six digits: the pages print all there are, and
    ``record.json`` has the rest.
    """
    values = (*_metrics(record), *_intervals(record))
    return {
        k: float(v) if isinstance(v, int) else float(f"{v:.6g}")
        for k, v in values
        if v is not None and math.isfinite(v)
    }


def curves(record: Record) -> list[tuple[str, int, float]]:
    """Learning curves of the recipe's training steps and of the fit before it.

    Returns:
        Name, epoch from 1, value. ``training/finetune_2/loss`` is that of the recipe's second
        ``finetune``.
    """
    found: list[tuple[str, int, float]] = []
    times: Counter[str] = Counter()
    for entry in record.lineage:
        action = str(entry["action"])
        times[action] += 1
        name = action if times[action] == 1 else f"{action}_{times[action]}"
        for kind in ("loss", "validation_loss"):
            values = (entry.get("details") or {}).get(kind)
            if not isinstance(values, list | tuple):
                continue
            found += [
                (f"training/{name}/{kind}", epoch, float(f"{value:.6g}"))
                for epoch, value in enumerate(values, 1)
                if isinstance(value, int | float) and math.isfinite(value)
            ]
    return found


def _metrics(record: Record) -> Iterator[tuple[str, float | None]]:
    accuracy = record.accuracy
    if accuracy:
        yield "accuracy/top1", accuracy.top1
        yield "accuracy/miou", accuracy.miou
        yield "accuracy/top5", accuracy.top5
        yield "accuracy/macro_f1", accuracy.macro_f1
        against = accuracy.against_baseline
        if against:
            yield "accuracy/drop_pt", against.drop_pt
            yield "accuracy/agreement", against.agreement
            if against.mcnemar_p is not None:
                yield "accuracy/mcnemar_p", against.mcnemar_p
    for speedup in record.speedup:
        yield f"speedup/b{speedup.batch_size}", speedup.ratio
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        for latency in record.latency:
            yield f"latency/{name}_b{latency.batch_size}", getattr(latency, name)
    for latency in record.latency:
        yield f"throughput/per_s_b{latency.batch_size}", latency.throughput_per_s
    size = record.size
    yield "size/file_mb", None if size.file_bytes is None else size.file_bytes / MIB
    yield "size/zipped_mb", None if size.zipped_bytes is None else size.zipped_bytes / MIB
    yield "size/file_ratio", size.file_ratio
    yield "size/parameters", size.parameters
    yield "size/nonzero_parameters", size.nonzero_parameters
    yield "size/macs", size.macs
    for name in ("rss_peak_mb", "rss_model_mb", "vram_driver_mb", "vram_allocator_mb"):
        yield f"memory/{name}", getattr(record.memory, name)
    for name in ("import_s", "load_s", "compile_s", "first_inference_ms"):
        yield f"cold/{name}", getattr(record.cold, name)
    yield "energy/joules_per_sample", record.energy.joules_per_sample
    if record.placement:
        yield "int8_share", record.placement.int8_share
        yield "int8_macs_share", record.placement.int8_macs_share
    yield "stages/total_s", record.seconds
    for stage in record.stages:
        yield f"stages/{stage.name}_s", stage.seconds
        yield f"stages/{stage.name}_rss_peak_mb", stage.rss_peak_mb


def _intervals(record: Record) -> Iterator[tuple[str, float]]:
    """Ends of the 95 % intervals, in a section of their own not to crowd the others."""

    def ends(name: str, low: float, high: float) -> Iterator[tuple[str, float]]:
        yield f"interval/{name}_low", low
        yield f"interval/{name}_high", high

    accuracy = record.accuracy
    if accuracy:
        yield from ends("accuracy_top1", accuracy.top1_low, accuracy.top1_high)
        against = accuracy.against_baseline
        if against:
            yield from ends("accuracy_drop_pt", against.drop_low_pt, against.drop_high_pt)
    for speedup in record.speedup:
        yield from ends(f"speedup_b{speedup.batch_size}", speedup.low, speedup.high)
    for latency in record.latency:
        b = latency.batch_size
        yield from ends(f"latency_p50_ms_b{b}", latency.p50_low_ms, latency.p50_high_ms)


def table_view(records: Sequence[Record], sweep: str | None) -> dict[str, Any]:
    """What MLflow's run table shows of these records, as its "shared view" wants it.

    Without it the table has no column for any param or metric, and cuts the runs' names short.
    """
    batches = sorted({x.batch_size for record in records for x in record.latency})
    ends = list(dict.fromkeys((*batches[:1], *batches[-1:])))
    names = ["accuracy/top1", "accuracy/drop_pt"]
    # headers are cut after some 12 characters: latencies at two batch sizes would look alike
    names += [f"latency/p50_ms_b{b}" for b in batches[:1]] + [f"speedup/b{b}" for b in ends]
    names += [f"throughput/per_s_b{b}" for b in batches[-1:]]
    names += ["size/file_mb", "memory/rss_peak_mb", "int8_share"]
    columns = [f"params.`{name}`" for name in ("model", "recipe", "backend")]
    view: dict[str, Any] = {"selectedColumns": columns + [f"metrics.`{name}`" for name in names]}
    wanted = None if sweep is None else sweep_filter(sweep)
    if wanted is not None:
        view["searchFilter"] = wanted
    return view


def sweep_filter(sweep: str) -> str | None:
    """MLflow's search for the runs of a sweep; None for a name that it cannot hold.

    It knows no escaped quotes.
    """
    return None if {'"', "'", "`", "\\"} & set(sweep) else f'tags.sweep = "{sweep}"'


def tags(record: Record, sha256: str, sweep: str | None) -> dict[str, str]:
    """Tags that find a run again, and MLflow's own (description, commit, source)."""
    values: dict[str, str | None] = {
        "status": record.status,
        "sweep": sweep,
        "recipe": record.experiment.recipe_name,
        "fingerprint": record.fingerprint,
        "identity": record.identity,
        "baseline": record.baseline,
        "machine": machine(record.environment),
        "record_sha256": sha256,
        "error": f"{record.error.type}: {record.error.message}" if record.error else None,
        "mlflow.note.content": description(record),
        "mlflow.source.name": record.command,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": _look(record.environment, "git", "commit"),
    }
    return {key: value[:_TAG_LIMIT] for key, value in values.items() if value}


def machine(environment: Mapping[str, Any]) -> str | None:
    """The machine in words: its CPU and GPUs; None if the record does not tell."""
    names = [_look(environment, "cpu", "model")]
    names += [_look(gpu, "name") for gpu in environment.get("gpus") or []]
    return " + ".join(name for name in names if name) or None


def description(record: Record) -> str:
    """The run in Markdown: what on what, the five numbers that matter, how to repeat it."""
    experiment = record.experiment
    how = "uncompressed (baseline)" if record.is_baseline else f"after `{experiment.recipe_name}`"
    lines = [
        f"**{experiment.model}** {how}, run by **{experiment.backend}**, "
        f"on **{experiment.dataset}** ({experiment.split}).",
        "",
    ]
    if record.error:
        error = record.error
        lines += [f"**{record.status}** in stage `{error.stage}`: {error.type}: {error.message}"]
        lines += [f"*{error.hint}*", ""] if error.hint else [""]
    rows = list(_key_numbers(record))
    if rows:  # first in one line: the page folds what is longer
        lines += [" · ".join(f"{name}: **{value}**" for name, value, _ in rows), ""]
        lines += ["| | value | 95 % interval |", "| --- | ---: | :---: |"]
        lines += [f"| {name} | {value} | {interval} |" for name, value, interval in rows]
        lines += [""]
    lines += [f"- {note}" for note in record.notes]
    lines += ["", "Reproduce:", "```sh", record.command, "```"]
    return "\n".join(lines)


def _key_numbers(record: Record) -> Iterator[tuple[str, str, str]]:
    accuracy, size = record.accuracy, record.size
    if accuracy:
        value, low, high = accuracy.primary
        yield (
            f"{accuracy.metric_name}, {accuracy.count} samples",
            f"{100 * value:.2f} %",
            f"{100 * low:.2f} to {100 * high:.2f}",
        )
        against = accuracy.against_baseline
        if against:
            yield (
                "drop against the baseline",
                f"{against.drop_pt:.2f} pt",
                f"{against.drop_low_pt:.2f} to {against.drop_high_pt:.2f}",
            )
    if record.latency:
        first = min(record.latency, key=lambda x: x.batch_size)
        yield (
            f"median latency, batch {first.batch_size}",
            f"{first.p50_ms:.3g} ms",
            f"{first.p50_low_ms:.3g} to {first.p50_high_ms:.3g}",
        )
    if record.speedup:
        gain = min(record.speedup, key=lambda x: x.batch_size)
        yield (
            f"speedup, batch {gain.batch_size}",
            f"{gain.ratio:.2f} x",
            f"{gain.low:.2f} to {gain.high:.2f}",
        )
    if size.file_bytes is not None:
        ratio = "" if size.file_ratio is None else f" ({size.file_ratio:.2f} of the baseline)"
        yield "size of the files", f"{size.file_bytes / MIB:.2f} MiB{ratio}", ""


def _look(value: Any, *path: str) -> str | None:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) and value else None


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Settings below a node, by dotted name; what only names the node is left out."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _NOT_SETTINGS:
                yield from _leaves(item, f"{prefix}.{key}")
    elif value is not None:
        yield prefix, value


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(str(item) for item in value)
    return str(value)
