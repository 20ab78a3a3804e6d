"""How long it took: stages, cold times, latency, speedup."""

from __future__ import annotations

from dataclasses import dataclass

from pqbench.core.record.fields import Part, doc


@dataclass
class Stage(Part):
    """One stage of the experiment."""

    name: str = doc("Name of the stage")
    seconds: float = doc("Wall time in s, the start of its process included")
    cached: bool = doc("True if the result was found and not computed")
    rss_peak_mb: float | None = doc("Peak resident memory of its process", default=None)


@dataclass
class Latency(Part):
    """Steady-state latency at one batch size; the first calls are not in it."""

    batch_size: int = doc("Samples per call")
    n: int = doc("Timed calls that count")
    p50_ms: float = doc("Median of one call in ms")
    p50_low_ms: float = doc("Lower end of the median's 95 % interval, in ms")
    p50_high_ms: float = doc("Upper end of the median's 95 % interval, in ms")
    mean_ms: float = doc("Mean in ms")
    std_ms: float = doc("Standard deviation in ms")
    min_ms: float = doc("Fastest call in ms")
    p90_ms: float | None = doc("90th percentile in ms, LoadGen's; null below 64 calls")
    p95_ms: float | None = doc("95th percentile in ms, LoadGen's; null below 130 calls")
    p99_ms: float | None = doc("99th percentile in ms, LoadGen's; null below 662 calls")
    ms_per_sample: float = doc("p50_ms divided by batch_size")
    throughput_per_s: float = doc("Samples per second of timed calls: 1000 * batch_size / mean_ms")
    stable: bool = doc("False if the figures should not be trusted")
    unstable_reason: str = doc("Why not", default="")
    blocks: int = doc("Timed blocks that count", default=0)
    disturbed_blocks: int = doc("Blocks set aside: other processes or steal took CPU", default=0)
    warmup_calls: int = doc("Calls before the first that counts", default=0)
    drift: float | None = doc(
        "Median of the last third over the first third, minus 1", default=None
    )
    processes: int = doc(
        "Starts of the session processes that were timed. With 1 the interval does not cover what "
        "another start would change",
        default=1,
    )
    p90_low_ms: float | None = doc(
        "Lower end of its 95 % interval; null: no interval", default=None
    )
    p90_high_ms: float | None = doc("Upper end of its 95 % interval", default=None)
    p95_low_ms: float | None = doc(
        "Lower end of its 95 % interval; null: no interval", default=None
    )
    p95_high_ms: float | None = doc("Upper end of its 95 % interval", default=None)
    p99_low_ms: float | None = doc(
        "Lower end of its 95 % interval; null: no interval", default=None
    )
    p99_high_ms: float | None = doc("Upper end of its 95 % interval", default=None)
    start_p50_ms: list[float] = doc(
        "Median of each start in ms; empty in records from before it was kept",
        default_factory=list,
    )


@dataclass
class Speedup(Part):
    """Baseline latency over this experiment's latency, from alternating blocks."""

    batch_size: int = doc("Samples per call")
    ratio: float = doc("Above 1: faster than the baseline")
    low: float = doc("Lower end of the 95 % interval")
    high: float = doc("Upper end of the 95 % interval")
    pairs: int = doc("Pairs of blocks that count")
    disturbed_blocks: int = doc("Blocks set aside and repeated")
    disturbed: bool = doc("True if too few quiet blocks could be had: do not trust the ratio")
    baseline_p50_ms: float = doc("Median of the baseline in the same run, in ms")
    start_ratios: list[float] = doc(
        "The ratio in each start of both sides; empty in records from before it was kept",
        default_factory=list,
    )


@dataclass
class Cold(Part):
    """Times before the steady state, each once."""

    import_s: float | None = doc("Importing the runtime", default=None)
    load_s: float | None = doc("Reading the model and making the session", default=None)
    compile_s: float | None = doc("Compiling or building the engine", default=None)
    first_inference_ms: float | None = doc("First call at the first batch size", default=None)
