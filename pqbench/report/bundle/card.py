"""The model card of a bundle, made from its record (Mitchell et al. 2019, "Model Cards")."""

from __future__ import annotations

from pqbench.core.record import Record


def model_card(record: Record, runtime: str) -> str:
    """The card in Markdown: what it is, on what it was measured, what is claimed, class by class.

    Args:
        record: What was measured.
        runtime: Name and version of the runtime that the bundle needs.
    """
    experiment = record.experiment
    cpu = (record.environment.get("cpu") or {}).get("model", "an unknown processor")
    lines = [
        f"# {experiment.model} · {experiment.recipe_name} · {experiment.backend}",
        "",
        f"Made by pqbench from the record `{record.fingerprint}` of {record.created}. "
        f"`python run.py` checks on this machine that model, preprocessing and outputs are those "
        "that were measured, and times it.",
        "",
        "## What it is",
        "",
        f"- Task: {experiment.task.replace('_', ' ')}; data set: {experiment.dataset}, split "
        f"`{experiment.split}`; weights: {experiment.weights or 'unknown'}.",
        f"- Compression: {' then '.join(experiment.recipe) or 'none (FP32)'}.",
        f"- Runtime: {runtime}.",
        f"- Measured on: {cpu}, {record.config.get('threads')} threads. On another machine the "
        "times are others; accuracy is not.",
        *_size(record),
        "",
        "## What was measured",
        "",
        *_figures(record),
        "",
        *_classes(record),
        *_notes(record),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _size(record: Record) -> list[str]:
    size = record.size
    if size.file_bytes is None:
        return []
    ratio = f", {size.file_ratio:.2f} of the baseline's" if size.file_ratio else ""
    return [f"- Size: {size.file_bytes / 2**20:.1f} MiB{ratio}."]


def _figures(record: Record) -> list[str]:
    lines = []
    accuracy = record.accuracy
    if accuracy is None:
        why = record.reasons.get("accuracy", "not scored")
        lines.append(f"- Accuracy: not known ({why}).")
    else:
        value, low, high = accuracy.primary
        lines.append(
            f"- {accuracy.metric_name}: {value:.1%} [{low:.1%}, {high:.1%}] on "
            f"{accuracy.count:,} samples (95 % interval)."
        )
        against = accuracy.against_baseline
        if against is not None:
            lines.append(
                f"- Lost against the uncompressed model on the same samples: "
                f"{against.drop_pt:+.1f} points [{against.drop_low_pt:+.1f}, "
                f"{against.drop_high_pt:+.1f}]; {against.agreement:.1%} of the answers agree."
            )
    lines += [
        f"- Batch {x.batch_size}: {x.p50_ms:.2f} ms a call [{x.p50_low_ms:.2f}, "
        f"{x.p50_high_ms:.2f}]{'' if x.stable else ' (unstable)'}."
        for x in record.latency
    ]
    lines += [
        f"- Batch {s.batch_size}: {s.ratio:.2f} times as fast as the uncompressed model on the "
        f"same runtime [{s.low:.2f}, {s.high:.2f}]{' (disturbed)' if s.disturbed else ''}."
        for s in record.speedup
    ]
    return lines


def _classes(record: Record) -> list[str]:
    faithful = record.accuracy.faithfulness if record.accuracy else None
    if faithful is None:
        return []
    lines = [f"**Do not deploy it:** {fault}." for fault in faithful.faults]
    if faithful.classes:
        lines += ["", "| class | samples | recall, % |", "| --- | ---: | ---: |"]
        lines += [f"| {c.name} | {c.count} | {100 * c.score:.1f} |" for c in faithful.classes]
    return ["## Class by class", "", *lines, ""]


def _notes(record: Record) -> list[str]:
    if not record.notes:
        return []
    return ["## What a reader must know", "", *(f"- {note}" for note in record.notes)]
