"""What it needs: memory, energy, size."""

from __future__ import annotations

from dataclasses import dataclass

from pqbench.core.record.fields import Part, doc


@dataclass
class Memory(Part):
    """Memory of the process that runs the session, in MiB, measured apart from latency."""

    rss_peak_mb: float | None = doc("High-water mark since before the load", default=None)
    rss_runtime_mb: float | None = doc(
        "Resident before the load: interpreter, runtime, one input", default=None
    )
    rss_model_mb: float | None = doc("Growth by loading the model", default=None)
    rss_working_mb: float | None = doc("Growth of the peak while running", default=None)
    vram_driver_mb: float | None = doc("Peak GPU memory of the process by the driver", default=None)
    vram_allocator_mb: float | None = doc("Peak of the framework's allocator", default=None)
    method: str = doc("How it was read", default="")
    batch_size: int | None = doc(
        "Samples per call of the one batch size that the session was made for; null in records "
        "from before it was one",
        default=None,
    )
    harness_mb: float | None = doc(
        "pqbench's own part of the process, which the figures above leave out; null: it is in them",
        default=None,
    )


@dataclass
class Energy(Part):
    """Energy at the largest batch size, both sides in turns, idle taken off."""

    joules_per_sample: float | None = doc(
        "Energy per sample in J, above idle; records without rounds have idle in it", default=None
    )
    source: str | None = doc("Counter that was read: nvml or rapl", default=None)
    low: float | None = doc("Lower end of the 95 % interval in J", default=None)
    high: float | None = doc("Upper end of the 95 % interval in J", default=None)
    baseline_joules_per_sample: float | None = doc(
        "The same of the baseline, in the same rounds", default=None
    )
    ratio: float | None = doc("Baseline's over this one's, paired by round", default=None)
    ratio_low: float | None = doc("Lower end of its 95 % interval", default=None)
    ratio_high: float | None = doc("Upper end of its 95 % interval", default=None)
    idle_watts: float | None = doc("Power when idle, which was taken off, in W", default=None)
    rounds: int = doc("Rounds of idle, candidate and baseline", default=0)
    batch_size: int | None = doc("Samples per call", default=None)


@dataclass
class Size(Part):
    """How big the deployed model is and how much work it does."""

    file_bytes: int | None = doc("All files a deployment needs", default=None)
    zipped_bytes: int | None = doc("The same, deflated (zip level 6)", default=None)
    parameters: int | None = doc("Parameters of the torch model", default=None)
    nonzero_parameters: int | None = doc("Of these, not zero", default=None)
    macs: int | None = doc("Multiply-accumulates for one sample", default=None)
    file_ratio: float | None = doc("file_bytes over the baseline's", default=None)
    parameter_ratio: float | None = doc("parameters over the baseline's", default=None)
    macs_ratio: float | None = doc("macs over the baseline's", default=None)
    engine_bytes: int | None = doc(
        "Engine that a TensorRT backend built from the file; it is not in file_bytes", default=None
    )
