"""The methods paragraph: what was measured, how, on what; every number from the records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pqbench.core.margins import Margins
from pqbench.core.record import METRIC_NAMES, Record
from pqbench.report import references
from pqbench.report.environments import environment_labels
from pqbench.report.names import backend_name, dataset_name, in_print, model_name
from pqbench.report.references import cite

_FREED = {
    True: "kept what PyTorch freed for its next call",
    False: "gave what PyTorch freed back to the system",
}
_SHOWN = (
    "torch",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "torch-tensorrt",
    "nncf",
    "torch-pruning",
)


def methods_paragraphs(records: Sequence[Record], margins: Margins | None = None) -> list[str]:
    """One paragraph for each of: subject, steps, machine, latency, accuracy, statistics, claims.

    Citations stand as pandoc writes them, ``[@holm1979]``; see :mod:`pqbench.report.references`.

    Args:
        records: All of a report.
        margins: The question that its answers are to; None: there are none, nor are claims told.
    """
    good = [record for record in records if record.ok]
    if not good:
        return ["No experiment has a result, so there is no method to describe."]
    return [
        _subject(records, good),
        *_fitted(good),
        *_steps(good),
        *_machines(good),
        _latency(good),
        _accuracy(good),
        _statistics(good),
        *([_claims(good, margins)] if margins is not None else []),
    ]


def _claims(good: Sequence[Record], margins: Margins) -> str:
    """What is claimed, by which tests, and at what error rate all claims together."""
    metrics = {r.accuracy.metric for r in good if r.accuracy and r.accuracy.against_baseline}
    tests = [
        f"Tango's score test of paired proportions{cite('tango1998')}, exact where the models "
        "hardly differ"
        if metrics - {"miou"}
        else "",
        f"Student's t on the jackknife{cite('efron1982jackknife')} by image"
        if "miou" in metrics
        else "",
    ]
    by = f" (one-sided: {_list(tests)})" if any(tests) else ""
    points = "1 point is" if margins.max_drop_pt == 1 else f"{margins.max_drop_pt:g} points are"
    return (
        f"Claims: of each compressed model it is asked whether at most {points} lost{by} and "
        f"whether it is at least {margins.min_speedup:g} times as fast as its uncompressed model "
        "(one-sided Student's t on the logarithms of the starts' ratios). A "
        "claim holds, fails, or is undecided; all claims of the report are decided together by "
        f"Holm's procedure{cite('holm1979')}, which also bounds errors of "
        f"direction{cite('shaffer1980directional')}, so that any of them is wrong with a "
        f"probability of at most {1 - margins.confidence:.0%}. The bounds that are quoted hold "
        f"together at the same confidence (Bonferroni's inequality{cite('dunn1961')}). A model "
        "that gives one answer, lost a "
        "class, or is not shown to be better than always answering the most frequent class is "
        "never an answer."
    )


def _statistics(good: Sequence[Record]) -> str:
    """Which tests were used, and how they are corrected."""
    starts = [len(x.start_ratios) for record in good for x in record.speedup]
    text = "Speedup and drop are given with 95 % intervals."
    if any(n > 1 for n in starts):
        text += (
            " The speedup is the geometric mean over the starts, judged by Student's t with one "
            "degree of freedom less than there are starts."
        )
    if any(n < 2 for n in starts):
        text += (
            " Where the processes were started once, the interval does not cover what another "
            "start would change, and no verdict is given."
        )
    return text + (
        " A difference is called shown only where its interval excludes no difference and its p "
        f"value stays below 0.05 after Holm's correction{cite('holm1979')} over all comparisons of "
        "this report."
    )


def _subject(records: Sequence[Record], good: Sequence[Record]) -> str:
    def names(values: Iterable[str]) -> str:
        return _list(sorted(set(values)))

    recipes = {in_print("+".join(r.experiment.recipe)) for r in good} - {""}
    text = (
        f"We measured {names(_model(r) for r in good)} on {names(_dataset(r) for r in good)}, "
        "uncompressed"
        + (f" and after {_list(sorted(recipes))} (steps in order)" if recipes else "")
        + f", executed by {names(_backend(r) for r in good)}."
    )
    calibration = {
        str(step["calibration_size"])
        for r in good
        for step in (r.config.get("compress") or {}).values()
        if isinstance(step, Mapping) and type(step.get("calibration_size")) is int
    }
    if calibration:
        text += (
            f" Quantizers were calibrated with {_list(sorted(calibration, key=int))} images of the "
            "training split, none of which is scored."
        )
    missing = len(records) - len(good)
    if missing:
        text += f" {missing} of {len(records)} experiments have no result; the tables say why."
    return text


def _model(record: Record) -> str:
    name = record.experiment.model
    return model_name(name) + references.model(record)


def _dataset(record: Record) -> str:
    e = record.experiment
    return f"{dataset_name(e.dataset)} ({e.split}){references.dataset(e.dataset)}"


def _backend(record: Record) -> str:
    name = record.experiment.backend
    return backend_name(name) + references.backend(name)


def _fitted(good: Sequence[Record]) -> list[str]:
    """How models learned the data set's classes, where they had to."""
    how = {
        "linear_probe": "a linear layer on frozen features, by logistic regression"
        + cite("kornblith2019better"),
        "finetune": f"training of all weights with AdamW{cite('loshchilov2019adamw')}",
        "scratch": f"training from random weights with AdamW{cite('loshchilov2019adamw')}",
    }
    found: dict[str, dict[str, None]] = {}
    for record in good:
        for entry in record.lineage:
            method = str((entry.get("config") or {}).get("method"))
            if entry.get("action") == "fit" and method in how:
                found.setdefault(method, {})[model_name(record.experiment.model)] = None
    told = [f"{_list(list(models))} by {how[method]}" for method, models in found.items()]
    return (
        [f"The data set's classes were learned first, on its training split: {'; '.join(told)}."]
        if told
        else []
    )


def _steps(good: Sequence[Record]) -> list[str]:
    """What each step does, with the works that describe it."""
    told = references.steps(good)
    return [f"The steps: {'; '.join(told)}."] if told else []


def _machines(good: Sequence[Record]) -> list[str]:
    labels = environment_labels(good)
    seen: dict[str, list[Record]] = {}
    for label, record in zip(labels, good, strict=True):
        seen.setdefault(label, []).append(record)
    return [_machine(label, records) for label, records in list(seen.items())[:8]]


def _machine(label: str, records: Sequence[Record]) -> str:
    record = records[0]
    environment = record.environment
    cpu = environment.get("cpu") or {}
    libraries = environment.get("libraries") or {}
    shown = [f"{name} {libraries[name]}" for name in _SHOWN if name in libraries]
    threads = sorted({str(each.config.get("threads")) for each in records})
    flags = [f for f in cpu.get("flags", []) if f.startswith(("avx512_vnni", "avx_vnni", "amx"))]
    noun = "thread" if threads == ["1"] else "threads"
    each = "for every runtime" if len(threads) == 1 else "as each record says"
    parts = [f"Machine: {label}, {' or '.join(threads)} {noun} {each}"]
    if flags:
        parts.append(f"integer instructions {_list(flags)}")
    if environment.get("os"):
        parts.append(str(environment["os"].get("platform")))
    text = "; ".join(parts) + "."
    kept = {bool(r.placement.details["keep_memory"]) for r in records
            if r.placement and "keep_memory" in r.placement.details}  # fmt: skip
    if kept:
        ways = [way for keeps, way in _FREED.items() if keeps in kept]
        text += f" The C library {' or, as each record says, '.join(ways)}."
    versions = [f"Python {environment['python']}"] if environment.get("python") else []
    versions += shown
    text += f" Software: {', '.join(versions)}." if versions else ""
    states = [r.environment.get("git") or {} for r in records]
    commits = dict.fromkeys(
        state["commit"][:10] + (" with uncommitted changes" if state.get("dirty") else "")
        for state in states
        if state.get("commit")
    )
    if commits:
        text += f" pqbench at commit{'s' if len(commits) > 1 else ''} {_list(list(commits))}."
    return text


def _latency(good: Sequence[Record]) -> str:
    protocols = _different(record.config.get("protocol") or {} for record in good)
    text = (
        f"Latency is the wall time of one call of the deployed session on {_inputs(good)}, after "
        "warm-up, and is given as the median with a 95 % interval. Baseline and candidate ran in "
        "two processes that took turns in short blocks, in balanced order, and are compared pair "
        f"by pair, so that drift of the machine cancels{cite('kalibera2013rigorous')}. Blocks "
        "during which other "
        "processes took the CPU were set aside and repeated."
    )
    for protocol in protocols[:4]:
        sizes = _list([str(b) for b in protocol.get("batch_sizes") or []])
        text += (
            f" Protocol {protocol.get('name', 'unnamed')}: batch sizes {sizes or 'not recorded'}"
        )
        for key, words in (
            ("warmup_s", "at least {} s of warm-up"),
            ("block_s", "blocks of {} s"),
            ("min_pairs", "at least {} pairs"),
            ("max_seconds", "at most {} s per batch size"),
        ):
            if key in protocol:
                text += ", " + words.format(protocol[key])
        starts = int(protocol.get("processes") or 1)
        text += (
            f". Both processes were started {starts} times; the intervals cover what differs from "
            "start to start."
            if starts > 1
            else ". Each process was started once: the intervals do not cover what another start "
            "would change."
        )
    aside = sum(x.disturbed_blocks for record in good for x in record.latency)
    blocks = sum(x.blocks for record in good for x in record.latency)
    unstable = sum(not x.stable for record in good for x in record.latency)
    text += f" {blocks} blocks counted, {aside} were set aside"
    text += f"; {unstable} medians are marked unstable." if unstable else "."
    return text


def _inputs(good: Sequence[Record]) -> str:
    noise = [record.experiment.dataset == "synthetic" for record in good]
    return "noise" if all(noise) else "real inputs or noise" if any(noise) else "real inputs"


def _accuracy(good: Sequence[Record]) -> str:
    scored = [record.accuracy for record in good if record.accuracy]
    if not scored:
        return "Accuracy was not measured."
    counts = _list(sorted({f"{a.count} samples ({a.split})" for a in scored}))
    interval = {
        "miou": f"Student's t on the jackknife{cite('efron1982jackknife')} by image",
        "top1": f"Wilson's interval{cite('wilson1927')}",
    }
    metrics = sorted({a.metric for a in scored}, reverse=True)
    named = _list([f"{METRIC_NAMES.get(m, m)} with {interval.get(m, 'its')}" for m in metrics])
    text = f"Accuracy is that of the very session that was timed, on {counts}: {named}."
    tests = {
        (test := a.against_baseline.test or ("McNemar, exact" if a.metric == "top1" else ""))
        + (cite("mcnemar1947") if "McNemar" in test else "")
        for a in scored
        if a.against_baseline
    } - {""}
    if tests:
        text += f" The drop compares predictions on the same samples ({_list(sorted(tests))})."
    weights = sorted({str(r.experiment.weights) for r in good if r.experiment.weights})
    return text + (f" Weights: {_list(weights)}." if weights else "")


def _different(items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _list(items: Sequence[str]) -> str:
    items = [i for i in items if i]
    if len(items) > 12:
        items = [*items[:11], f"{len(items) - 11} more"]
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
