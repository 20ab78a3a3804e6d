"""Records with plausible values, for tests of what starts from records."""

from __future__ import annotations

import hashlib
from typing import Any

from pqbench.core.record import (
    Accuracy,
    AgainstBaseline,
    Cold,
    Energy,
    ErrorInfo,
    Experiment,
    Latency,
    Memory,
    PlacementInfo,
    Profile,
    Record,
    Size,
    Speedup,
    Stage,
)

MIB = 2**20
BATCHES = (1, 16, 64)
START_SPREAD = (-0.03, -0.015, 0.0, 0.015, 0.03)
STEP_SETTINGS: dict[str, dict[str, Any]] = {
    "prune": {"pruning_ratio": 0.3, "criterion": "taylor", "iterations": 5},
    "finetune": {"epochs": 4, "learning_rate": 0.001},
    "nncf_int8": {"preset": "mixed", "calibration_size": 256, "fast_bias_correction": True},
    "ort_int8": {"calibration_size": 256, "method": "minmax", "per_channel": True},
}


def make_record(
    model: str = "mobilenetv3",
    backend: str = "openvino",
    recipe: tuple[str, ...] = (),
    *,
    ms: float = 6.0,
    speedup: float = 1.0,
    top1: float = 0.91,
    drop_pt: float = 0.0,
    size_mb: float = 16.1,
    size_ratio: float = 1.0,
    int8: int = 0,
    created: str = "2026-11-20T10:00:00+00:00",
    steps: dict[str, dict[str, Any]] | None = None,
    dataset: str = "elpv",
    batches: tuple[int, ...] = BATCHES,
) -> Record:
    """An experiment that went well; ``ms`` is its median at batch 1."""
    settings = steps or {name: STEP_SETTINGS.get(name, {}) for name in recipe}
    config: dict[str, Any] = {
        "model": {"name": model, "task": "classification"},
        "dataset": {"name": dataset, "split": "val"},
        "compress": {
            name: {"_target_": f"pqbench.compress.{name}.Step", **node}
            for name, node in settings.items()
        },
        "backend": {
            "_target_": f"pqbench.backends.{backend}.Backend",
            "name": backend,
            "precision": "f32",
        },
        "protocol": {"name": "default", "batch_sizes": list(batches)},
        "tracking": {"enabled": True, "uri": None, "experiment": "pqbench"},
        "threads": 2,
        "seed": 0,
        "outputs": "outputs",
    }
    base = {**config, "compress": {}}
    fingerprint = _hash(config)
    count = 525
    latency = [_latency(b, ms * b**0.93) for b in batches]
    return Record(
        status="ok",
        experiment=Experiment(
            model=model,
            task="classification",
            dataset=dataset,
            split="val",
            recipe=list(recipe),
            backend=backend,
            weights="bundled",
        ),
        fingerprint=fingerprint,
        baseline=_hash(base) if recipe else None,
        created=created,
        seconds=83.4,
        command=f"python -m pqbench model={model} dataset={dataset} "
        f"compress='[{','.join(recipe)}]' backend={backend}",
        config=config,
        environment={
            "cpu": {"model": "Example CPU @ 2.10GHz", "cores": 2, "flags": ["avx2", "avx512_vnni"]},
            "libraries": {"torch": "2.15.0", "openvino": "2026.1.0"},
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        },
        stages=[Stage("prepare", 1.2, True), Stage("compress", 30.0, False, 900.0)],
        lineage=[{"action": name, "seconds": 9.0, "config": {}, "details": {}} for name in recipe],
        latency=latency,
        speedup=[
            Speedup(
                batch_size=b,
                ratio=speedup * (1 + 0.05 * i),
                low=speedup * (1 + 0.05 * i) * 0.97,
                high=speedup * (1 + 0.05 * i) * 1.03,
                pairs=24,
                disturbed_blocks=i,
                disturbed=False,
                baseline_p50_ms=ms * speedup * b**0.93,
                # Five starts whose t interval is about the one given.
                start_ratios=[speedup * (1 + 0.05 * i) * (1 + d) for d in START_SPREAD],
            )
            for i, b in enumerate(batches)
        ]
        if recipe
        else [],
        cold=Cold(import_s=0.8, load_s=0.12, compile_s=0.5, first_inference_ms=ms * 4),
        memory=Memory(rss_peak_mb=260 + size_mb, rss_model_mb=2 * size_mb, method="VmHWM"),
        energy=Energy(),
        size=Size(
            file_bytes=round(size_mb * MIB),
            zipped_bytes=round(size_mb * MIB * 0.92),
            parameters=4_200_000,
            nonzero_parameters=4_199_000,
            macs=220_000_000,
            file_ratio=size_ratio if recipe else None,
        ),
        accuracy=Accuracy(
            split="val",
            count=count,
            top1=top1,
            top1_low=top1 - 0.026,
            top1_high=top1 + 0.022,
            macro_f1=top1 - 0.02,
            top5=None,
            against_baseline=AgainstBaseline(
                drop_pt, drop_pt - 0.8, drop_pt + 0.9, mcnemar_p=0.4, agreement=0.98
            )
            if recipe
            else None,
        ),
        parity=[{"from": "torch", "to": "onnx", "max_abs": 1e-5}],
        placement=PlacementInfo(
            nodes={"CPU": 120},
            precision="f32",
            quantizable=52,
            integer=int8,
            int8_share=int8 / 52,
            float_reasons={},
            kernels={"Convolution": 52},
            threads=2,
        ),
        reasons={"energy": "no counter: RAPL is not readable", "accuracy.top5": "2 classes"},
        files={"predictions": "predictions.parquet", "model": "model"},
    )


def make_failed(
    model: str = "mobilenetv3",
    backend: str = "tensorrt",
    recipe: tuple[str, ...] = ("nncf_int8",),
    *,
    status: str = "unavailable",
    stage: str = "plan",
    type_: str = "UnavailableError",
    message: str = "TensorRT needs an NVIDIA GPU; no driver was found",
    hint: str = "choose another backend",
) -> Record:
    """An experiment without a result."""
    record = make_record(model, backend, recipe)
    record.status = status
    record.error = ErrorInfo(stage, type_, message, hint, log="logs/stage.log", log_tail="...")
    record.seconds = 0.4
    record.stages, record.lineage, record.latency, record.speedup = [], [], [], []
    record.cold, record.memory, record.size = Cold(), Memory(), Size()
    record.accuracy, record.placement, record.parity = None, None, []
    record.files = {"log": "logs/stage.log"}
    return record


def make_sweep() -> list[Record]:
    """Baselines, candidates, a low INT8 share, a slowdown, failures."""
    slow = make_record(
        recipe=("ort_int8",), backend="onnxruntime", ms=8.3, speedup=0.78, top1=0.872,
        drop_pt=3.8, size_mb=4.6, size_ratio=0.28, int8=14,
    )  # fmt: skip
    assert slow.placement is not None
    slow.placement.float_reasons = {"HardSwish between Q and DQ": 21, "depthwise": 17}
    slow.profile = Profile(
        1,
        {"Conv": 3.1, "QuantizeLinear": 2.4},
        {"Conv": 4.0},
        "Slower than its baseline: 38 added QuantizeLinear and DequantizeLinear nodes take "
        "2.9 ms of 8.3 ms, more than the integer kernels save",
    )
    unstable = make_record("resnet18", "onnxruntime", ms=24.0, top1=0.89, size_mb=42.7)
    unstable.latency[-1].stable = False
    unstable.latency[-1].unstable_reason = "drift of +9 % between first and last third"
    disturbed = make_record(
        "resnet18", "onnxruntime", ("nncf_int8",), ms=11.0, speedup=2.15, top1=0.888,
        drop_pt=0.2, size_mb=10.8, size_ratio=0.25, int8=52,
    )  # fmt: skip
    disturbed.speedup[-1].disturbed = True
    disturbed.speedup[-1].disturbed_blocks = 31
    no_rss = make_record("resnet18", "openvino", ms=21.0, top1=0.89, size_mb=42.7)
    no_rss.memory = Memory()
    no_rss.reasons["memory.rss_peak_mb"] = "the kernel does not tell VmHWM"
    leak = "12 of 525 scored images were seen in pretraining"
    no_rss.notes = [leak]
    return [
        make_record(backend="onnxruntime", ms=6.5),
        slow,
        make_record(
            recipe=("prune", "finetune"), backend="onnxruntime", ms=4.4, speedup=1.47,
            top1=0.899, drop_pt=1.1, size_mb=8.9, size_ratio=0.55,
        ),
        make_record(ms=5.9),
        make_record(
            recipe=("nncf_int8",), ms=3.1, speedup=1.9, top1=0.905, drop_pt=0.5,
            size_mb=4.4, size_ratio=0.27, int8=50,
        ),
        make_record(
            recipe=("prune", "finetune", "nncf_int8"), ms=2.2, speedup=2.68, top1=0.891,
            drop_pt=1.9, size_mb=2.5, size_ratio=0.155, int8=46,
        ),
        make_failed(),
        make_failed(
            "resnet18", "openvino", ("ort_int8",), status="failed", stage="compress",
            type_="DataError", message="calibration needs 256 images, the train split has 120",
            hint="set compress.ort_int8.calibration_size=120",
        ),
        unstable,
        disturbed,
        no_rss,
        make_record(
            "resnet18", "openvino", ("nncf_int8",), ms=7.9, speedup=2.66, top1=0.884,
            drop_pt=0.6, size_mb=10.8, size_ratio=0.25, int8=52,
        ),
    ]  # fmt: skip


def _latency(batch: int, ms: float) -> Latency:
    return Latency(
        batch_size=batch,
        n=400,
        p50_ms=ms,
        p50_low_ms=ms * 0.985,
        p50_high_ms=ms * 1.02,
        mean_ms=ms * 1.03,
        std_ms=ms * 0.08,
        min_ms=ms * 0.93,
        p90_ms=ms * 1.1,
        p95_ms=ms * 1.16,
        p99_ms=None,
        ms_per_sample=ms / batch,
        throughput_per_s=1000 * batch / ms,
        stable=True,
        blocks=24,
        warmup_calls=20,
        drift=0.004,
        processes=5,
    )


def _hash(config: dict[str, Any]) -> str:
    named = {k: v for k, v in config.items() if k not in ("tracking", "outputs")}
    return hashlib.sha256(repr(named).encode()).hexdigest()[:16]
