"""What came out of one experiment: ``record.json``, each field typed, documented, with its unit.

Units are in the names: ``_ms`` milliseconds, ``_s`` seconds, ``_mb`` mebibytes (2**20 bytes),
``_bytes``, ``_per_s``, ``_pt`` percentage points. ``low`` and ``high`` are the ends of a 95 %
interval. A value that was not measured is null and ``reasons`` says why, keyed by the field's path.
The JSON Schema of a record is made from these classes (:func:`json_schema`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pqbench.core.errors import DataError, Status
from pqbench.core.files import write_json
from pqbench.core.typed import build, read_json

SCHEMA_VERSION = 1
FILE = "record.json"
_CONFIG_PARTS = ("model", "dataset", "fit", "compress", "backend", "protocol", "tracking", "limits")
_MOST = 2**31
_ENVIRONMENT_PARTS = ("cpu", "libraries", "git", "os")
METRIC_NAMES = {"top1": "top-1", "miou": "mIoU"}


def _doc(text: str, **default: Any) -> Any:
    return field(metadata={"doc": text}, **default)


@dataclass
class ErrorInfo:
    """Why an experiment has no result."""

    stage: str = _doc("Stage in which it ended, or 'plan' before any work")
    type: str = _doc("Class of the error")
    message: str = _doc("What was wrong and where")
    hint: str = _doc("What to do", default="")
    log: str | None = _doc("Log file of the stage, relative to the record", default=None)
    log_tail: str = _doc("The last lines of that log", default="")


@dataclass
class Experiment:
    """Model x dataset x recipe x backend."""

    model: str = _doc("Name of the model")
    task: str = _doc("classification, ...")
    dataset: str = _doc("Name of the data set")
    split: str = _doc("Split that is scored")
    recipe: list[str] = _doc("Steps in order; empty for a baseline")
    backend: str = _doc("Name of the backend")
    weights: str | None = _doc("bundled, pretrained, file, scratch or none", default=None)

    @property
    def recipe_name(self) -> str:
        """The recipe as one word: ``none`` or ``prune+finetune+ort_int8``."""
        return "+".join(self.recipe) or "none"


@dataclass
class Stage:
    """One stage of the experiment."""

    name: str = _doc("Name of the stage")
    seconds: float = _doc("Wall time in s, the start of its process included")
    cached: bool = _doc("True if the result was found and not computed")
    rss_peak_mb: float | None = _doc("Peak resident memory of its process", default=None)


@dataclass
class Latency:
    """Steady-state latency at one batch size; the first calls are not in it."""

    batch_size: int = _doc("Samples per call")
    n: int = _doc("Timed calls that count")
    p50_ms: float = _doc("Median of one call in ms")
    p50_low_ms: float = _doc("Lower end of the median's 95 % interval, in ms")
    p50_high_ms: float = _doc("Upper end of the median's 95 % interval, in ms")
    mean_ms: float = _doc("Mean in ms")
    std_ms: float = _doc("Standard deviation in ms")
    min_ms: float = _doc("Fastest call in ms")
    p90_ms: float | None = _doc("90th percentile in ms; null below 64 calls")
    p95_ms: float | None = _doc("95th percentile in ms; null below 64 calls")
    p99_ms: float | None = _doc("99th percentile in ms; null below 662 calls")
    ms_per_sample: float = _doc("p50_ms divided by batch_size")
    throughput_per_s: float = _doc("Samples per second at the median")
    stable: bool = _doc("False if the figures should not be trusted")
    unstable_reason: str = _doc("Why not", default="")
    blocks: int = _doc("Timed blocks that count", default=0)
    disturbed_blocks: int = _doc("Blocks set aside: other processes or steal took CPU", default=0)
    warmup_calls: int = _doc("Calls before the first that counts", default=0)
    drift: float | None = _doc(
        "Median of the last third over the first third, minus 1", default=None
    )
    processes: int = _doc(
        "Starts of the session processes that were timed. With 1 the interval does not cover what "
        "another start would change",
        default=1,
    )


@dataclass
class Speedup:
    """Baseline latency over this experiment's latency, from alternating blocks."""

    batch_size: int = _doc("Samples per call")
    ratio: float = _doc("Above 1: faster than the baseline")
    low: float = _doc("Lower end of the 95 % interval")
    high: float = _doc("Upper end of the 95 % interval")
    pairs: int = _doc("Pairs of blocks that count")
    disturbed_blocks: int = _doc("Blocks set aside and repeated")
    disturbed: bool = _doc("True if too few quiet blocks could be had: do not trust the ratio")
    baseline_p50_ms: float = _doc("Median of the baseline in the same run, in ms")


@dataclass
class Cold:
    """Times before the steady state, each once."""

    import_s: float | None = _doc("Importing the runtime", default=None)
    load_s: float | None = _doc("Reading the model and making the session", default=None)
    compile_s: float | None = _doc("Compiling or building the engine", default=None)
    first_inference_ms: float | None = _doc("First call at the first batch size", default=None)


@dataclass
class Memory:
    """Memory of the process that runs the session, in MiB, measured apart from latency."""

    rss_peak_mb: float | None = _doc("High-water mark since before the load", default=None)
    rss_runtime_mb: float | None = _doc(
        "Resident before the load: interpreter, runtime, inputs", default=None
    )
    rss_model_mb: float | None = _doc("Growth by loading the model", default=None)
    rss_working_mb: float | None = _doc("Growth of the peak while running", default=None)
    vram_driver_mb: float | None = _doc("GPU memory of the process by the driver", default=None)
    vram_allocator_mb: float | None = _doc("GPU memory by the framework's allocator", default=None)
    method: str = _doc("How it was read", default="")


@dataclass
class Energy:
    """Energy over the timed window at the largest batch size."""

    joules_per_sample: float | None = _doc("Energy per sample in J", default=None)
    source: str | None = _doc("Counter that was read: nvml or rapl", default=None)


@dataclass
class Size:
    """How big the deployed model is and how much work it does."""

    file_bytes: int | None = _doc("All files a deployment needs", default=None)
    zipped_bytes: int | None = _doc("The same, deflated (zip level 6)", default=None)
    parameters: int | None = _doc("Parameters of the torch model", default=None)
    nonzero_parameters: int | None = _doc("Of these, not zero", default=None)
    macs: int | None = _doc("Multiply-accumulates for one sample", default=None)
    file_ratio: float | None = _doc("file_bytes over the baseline's", default=None)
    parameter_ratio: float | None = _doc("parameters over the baseline's", default=None)
    macs_ratio: float | None = _doc("macs over the baseline's", default=None)
    engine_bytes: int | None = _doc(
        "Engine that a TensorRT backend built from the file; it is not in file_bytes", default=None
    )


@dataclass
class AgainstBaseline:
    """Paired comparison of predictions on the same samples."""

    drop_pt: float = _doc("Baseline's primary metric minus this one's, in percentage points")
    drop_low_pt: float = _doc("Lower end of the 95 % interval")
    drop_high_pt: float = _doc("Upper end of the 95 % interval")
    mcnemar_p: float | None = _doc("Exact two-sided p of McNemar's test; null for segmentation")
    agreement: float = _doc("Share of samples (pixels) with the same prediction")
    metric: str = _doc("Primary metric, which the drop refers to: top1 or miou", default="top1")


@dataclass
class Accuracy:
    """Accuracy of the session that was timed."""

    split: str = _doc("Split that was scored")
    count: int = _doc("Samples that were scored")
    top1: float = _doc("Share right, 0..1; of pixels for segmentation")
    top1_low: float = _doc("Lower end of Wilson's 95 % interval (segmentation: bootstrap)")
    top1_high: float = _doc("Upper end of Wilson's 95 % interval (segmentation: bootstrap)")
    macro_f1: float = _doc("Mean over classes of F1, 0..1")
    top5: float | None = _doc("Share with the label among the five highest; null below 6 classes")
    against_baseline: AgainstBaseline | None = _doc("Null for a baseline", default=None)
    metric: str = _doc("Name of the task's primary metric here: top1 or miou", default="top1")
    miou: float | None = _doc("Segmentation: mean intersection over union, 0..1", default=None)
    miou_low: float | None = _doc("Lower end of its 95 % bootstrap interval", default=None)
    miou_high: float | None = _doc("Upper end of its 95 % bootstrap interval", default=None)
    class_iou: dict[str, float] = _doc(
        "Segmentation: intersection over union by class", default_factory=dict
    )

    @property
    def primary(self) -> tuple[float, float, float]:
        """The task's primary metric and the ends of its interval, 0..1."""
        if self.metric == "miou" and self.miou is not None:
            low = self.miou if self.miou_low is None else self.miou_low
            return self.miou, low, self.miou if self.miou_high is None else self.miou_high
        return self.top1, self.top1_low, self.top1_high

    @property
    def metric_name(self) -> str:
        """The primary metric as tables name it: ``top-1`` or ``mIoU``."""
        return METRIC_NAMES.get(self.metric, self.metric)


@dataclass
class PlacementInfo:
    """Where and how the model really ran, read back from the runtime."""

    nodes: dict[str, int] = _doc("Graph nodes per device or execution provider")
    precision: str = _doc("Floating-point precision in force")
    quantizable: int = _doc("Convolutions and matrix products in the executed graph")
    integer: int | None = _doc("Of these, run by integer kernels")
    int8_share: float | None = _doc("integer / quantizable, 0..1")
    float_reasons: dict[str, int] = _doc("Operators left in float, and added conversions")
    kernels: dict[str, int] = _doc("Executed kernels by type")
    threads: int | None = _doc("Threads of the runtime, read back")
    details: dict[str, Any] = _doc(
        "Of this backend alone: mode, provider options, engine size, warnings of a builder",
        default_factory=dict,
    )


@dataclass
class Profile:
    """Where the time goes, from the runtime's own profiler, in a session of its own."""

    batch_size: int = _doc("Samples per call")
    ms: dict[str, float] = _doc("ms per call by kernel type, largest first")
    baseline_ms: dict[str, float] = _doc("The same of the baseline", default_factory=dict)
    explanation: str = _doc("The difference in one sentence", default="")


@dataclass
class Record:
    """Everything about one experiment; readable alone."""

    status: str = _doc("ok, or failed unsupported unavailable timeout oom parity crashed skipped")
    experiment: Experiment = _doc("What ran")
    fingerprint: str = _doc("Hash that names the experiment: its resolved configuration")
    baseline: str | None = _doc("Fingerprint of the baseline; null if this is one")
    created: str = _doc("When it ended, ISO 8601, UTC")
    seconds: float = _doc("Wall time of the experiment without its baseline, in s")
    command: str = _doc("Command line that reproduces it")
    config: dict[str, Any] = _doc("Resolved configuration")
    environment: dict[str, Any] = _doc("Machine, libraries, threads, git")
    schema_version: int = _doc("Version of this layout", default=SCHEMA_VERSION)
    error: ErrorInfo | None = _doc("Null if status is ok", default=None)
    stages: list[Stage] = _doc("Stages in order", default_factory=list)
    lineage: list[dict[str, Any]] = _doc(
        "Actions from source to deployed model", default_factory=list
    )
    latency: list[Latency] = _doc("By batch size", default_factory=list)
    speedup: list[Speedup] = _doc("By batch size; empty for a baseline", default_factory=list)
    cold: Cold = _doc("Cold times", default_factory=Cold)
    memory: Memory = _doc("Memory", default_factory=Memory)
    energy: Energy = _doc("Energy", default_factory=Energy)
    size: Size = _doc("Size and work", default_factory=Size)
    accuracy: Accuracy | None = _doc("Null with a reason where there is none", default=None)
    accuracy_clean: Accuracy | None = _doc(
        "On images that no pretraining saw, where the scored split holds some that it did",
        default=None,
    )
    parity: list[dict[str, Any]] = _doc("One entry per conversion", default_factory=list)
    placement: PlacementInfo | None = _doc("Where it ran", default=None)
    profile: Profile | None = _doc("Where the time goes", default=None)
    reasons: dict[str, str] = _doc("Why a field is null, by its path", default_factory=dict)
    notes: list[str] = _doc("What a reader must know: leaks, warnings", default_factory=list)
    files: dict[str, str] = _doc("Files beside the record, relative to it", default_factory=dict)
    identity: str = _doc(
        "Hash of data, code, libraries and processor: with the fingerprint, what a finished "
        "experiment is found by",
        default="",
    )
    digest: str | None = _doc(
        "SHA-256 of all other fields, made when saved: an edit by hand shows", default=None
    )

    @property
    def altered(self) -> bool:
        """Whether a field was changed after the record was saved; False where it cannot tell."""
        return self.digest is not None and self.digest != self.seal()

    def seal(self) -> str:
        """SHA-256 of all fields but ``digest``, as 64 hex digits."""
        fields = {k: v for k, v in self.to_dict().items() if k != "digest"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def ok(self) -> bool:
        """Whether the experiment has a result."""
        return self.status == Status.OK

    @property
    def is_baseline(self) -> bool:
        """Whether the recipe is empty."""
        return not self.experiment.recipe

    def latency_at(self, batch_size: int) -> Latency | None:
        """Latency at one batch size, if measured."""
        return next((x for x in self.latency if x.batch_size == batch_size), None)

    def speedup_at(self, batch_size: int) -> Speedup | None:
        """Speedup at one batch size, if measured."""
        return next((x for x in self.speedup if x.batch_size == batch_size), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)

    def save(self, folder: Path) -> Path:
        """Write ``record.json``, with its digest, aside and rename."""
        self.digest = self.seal()
        path = folder / FILE
        write_json(path, self.to_dict())
        return path

    @classmethod
    def from_dict(cls, value: Any) -> Record:
        """Rebuild from :meth:`to_dict`.

        Raises:
            DataError: Another schema version; a field is missing, unknown or of another type.
        """
        if not isinstance(value, dict):
            raise DataError(f"a record is a JSON object, not {type(value).__name__}")
        version = value.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(f"record has schema version {version}, this is {SCHEMA_VERSION}")
        record: Record = build(cls, value)
        record.check()
        return record

    def check(self) -> None:
        """Check what types cannot say, so that whoever reads a record need not.

        Raises:
            DataError: A status that does not exist, a time that is none, or a part of the
                configuration or environment that is no object.
        """
        if self.status not in set(Status):
            raise DataError(f"status is {self.status!r:.40}, which is none")
        try:
            if datetime.fromisoformat(self.created).tzinfo is None:
                raise ValueError("it has no time zone")
        except ValueError as error:
            raise DataError(f"created is no time: {error}") from error
        for name, parts in (("config", _CONFIG_PARTS), ("environment", _ENVIRONMENT_PARTS)):
            whole = getattr(self, name)
            for part in parts:
                if not isinstance(whole.get(part), dict | None):
                    raise DataError(f"{name}.{part} is no object")
        gpus = self.environment.get("gpus")
        if not isinstance(gpus, list | None) or not all(isinstance(g, dict) for g in gpus or ()):
            raise DataError("environment.gpus is no list of objects")
        sizes = (self.config.get("protocol") or {}).get("batch_sizes") or []
        if not isinstance(sizes, list):
            raise DataError("config.protocol.batch_sizes is no list")
        sizes = [*sizes, *(x.batch_size for x in self.latency)]
        sizes += [x.batch_size for x in self.speedup]
        if not all(type(size) is int and 0 < size < _MOST for size in sizes):
            raise DataError(f"a batch size is not a number from 1: {sizes!r:.80}")
        for speedup in self.speedup:
            if min(speedup.ratio, speedup.low, speedup.high) <= 0:
                raise DataError("a speedup is not above 0")
        if not isinstance((self.environment.get("git") or {}).get("commit"), str | None):
            raise DataError("environment.git.commit is no text")
        for i, entry in enumerate(self.lineage):
            if not isinstance(entry.get("action"), str):
                raise DataError(f"lineage[{i}].action is no text")
            if not isinstance(entry.get("details", {}), dict | None):
                raise DataError(f"lineage[{i}].details is no object")

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read ``record.json``, given it or its folder.

        Raises:
            DataError: The file is missing, truncated, damaged or no record.
        """
        path = path / FILE if path.is_dir() else path
        value = read_json(path)
        try:
            return cls.from_dict(value)
        except DataError as error:
            raise DataError(f"cannot read {path}: {error}") from error


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _schema_of(kind: Any) -> dict[str, Any]:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of(a) for a in typing.get_args(kind)]}
    if kind is type(None):
        return {"type": "null"}
    if origin is list:
        return {"type": "array", "items": _schema_of(typing.get_args(kind)[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of(typing.get_args(kind)[1])}
    if origin is Literal:
        return {"enum": list(typing.get_args(kind))}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return {
            "type": "object",
            "description": (kind.__doc__ or "").strip(),
            "properties": {
                f.name: {"description": f.metadata["doc"], **_schema_of(hints[f.name])}
                for f in dataclasses.fields(kind)
            },
            "required": [f.name for f in dataclasses.fields(kind)],
            "additionalProperties": False,
        }
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return {"type": names[kind]} if kind in names else {}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of ``record.json``."""
    schema = _schema_of(Record)
    schema["properties"]["status"]["enum"] = [str(s) for s in Status]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"pqbench record, version {SCHEMA_VERSION}",
        **schema,
    }
