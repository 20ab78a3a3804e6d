"""Run the model of this folder: is it here as it was measured, and how fast is it?

Needs Python 3.11, NumPy, Pillow (for images) and the runtime named in bundle.json; no pqbench.

    python run.py                    check the model, its preprocessing and its outputs; time it
    python run.py photo.jpg ...      what the model says about your own images

Exit codes: 0 all as measured; 1 something is not; 2 it cannot be run.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
Run = Callable[[dict[str, Any]], list[Any]]


def preprocess(path: Path, settings: dict[str, Any]) -> npt.NDArray[Any]:
    """An image file as the model is fed: uint8 pixels (side, side, 3) before normalization."""
    from PIL import Image

    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[
        settings["interpolation"]
    ]
    side, short = settings["crop"], settings["resize"]
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if settings["mode"] == "squash":
        return np.asarray(image.resize((side, side), resample))
    width, height = image.size
    if min(width, height) != short:
        longer = int(short * max(width, height) / min(width, height))
        size = (longer, short) if width > height else (short, longer)
        image = image.resize(size, resample)
        width, height = size
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def normalize(pixels: npt.NDArray[Any], settings: dict[str, Any]) -> npt.NDArray[Any]:
    """uint8 (n, H, W, 3) as float32 (n, 3, H, W): ``(x / 255 - mean) / std``."""
    mean = np.array(settings["mean"], np.float32)
    std = np.array(settings["std"], np.float32)
    scale = np.float32(1.0) / (np.float32(255.0) * std)
    planes = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    planes *= scale[:, None, None]
    planes -= (mean / std)[:, None, None]
    return np.ascontiguousarray(planes)


def load(about: dict[str, Any], threads: int, batch: int) -> Run:
    """The model in its runtime, with the settings that it was measured with."""
    path, runtime = HERE / "model" / about["file"], about["runtime"]
    names = about["inputs"]
    if runtime == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda feed: session.run(about["outputs"], feed)
    if runtime == "openvino":
        import openvino as ov

        core = ov.Core()
        model = core.read_model(path)
        model.reshape({n: [batch, *about["shapes"][n]] for n in names})
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": about["precision"],
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        request = compiled.create_infer_request()
        return lambda feed: [np.array(v) for v in request.infer(feed).values()]
    import torch

    torch.set_num_threads(threads)
    if about.get("keep_memory") and sys.platform == "linux":
        # glibc, if it is that, keeps what is freed for the next call: mallopt(3)
        mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-4, 0)  # M_MMAP_MAX: all from the heap
            mallopt(-1, -1)  # M_TRIM_THRESHOLD: of which nothing is given back
    program: Any = torch.export.load(path).module()

    def run(feed: dict[str, Any]) -> list[Any]:
        with torch.inference_mode():
            out = program(*(torch.from_numpy(feed[n]) for n in names))
        return [t.numpy() for t in (out if isinstance(out, (tuple, list)) else [out])]

    return run


def version_of(runtime: str) -> str:
    """Version of the runtime that is imported, without the name of its build."""
    module = importlib.import_module(runtime)
    return str(module.__version__).partition("+")[0].partition("-")[0]


def problems(about: dict[str, Any], examples: Any, run: Run, any_version: bool) -> list[str]:
    """What is not as it was measured."""
    found = []
    wanted = about["version"]
    here = version_of(about["runtime"])
    if wanted and here != wanted and not any_version:
        found.append(
            f"{about['runtime']} is {here} here, the model was measured with {wanted}; "
            "pip install -r requirements.txt, or say --any-version"
        )
    for name, wanted in about["sha256"].items():
        if hashlib.sha256((HERE / "model" / name).read_bytes()).hexdigest() != wanted:
            found.append(f"model/{name} is not the file that was measured: its SHA-256 differs")
    settings = about["preprocess"]
    if settings:
        files = sorted((HERE / "inputs").iterdir())
        made = np.stack([preprocess(file, settings) for file in files])
        feed = {about["inputs"][0]: normalize(made, settings)}
        given = examples[f"input_{about['inputs'][0]}"]
        if made.shape[1:3] != given.shape[2:] or not np.array_equal(
            feed[about["inputs"][0]], given
        ):
            found.append(
                "preprocessing gives other pixels than those that were measured: preprocess.json, "
                "or another version of Pillow"
            )
    wanted_outputs = examples["outputs"]
    feeds = {n: examples[f"input_{n}"] for n in about["inputs"]}
    got = np.concatenate(
        [
            np.asarray(run({n: a[i : i + 1] for n, a in feeds.items()})[about["scored"]])
            for i in range(len(wanted_outputs))
        ]
    )
    if wanted_outputs.ndim < got.ndim:  # dense classes were kept, not their scores
        got = got.argmax(axis=1)
        noise = float(np.mean(got != wanted_outputs))
        if noise > 0.01:
            found.append(f"{noise:.1%} of the pixels get another class than when measured")
        return found
    got = got.reshape(wanted_outputs.shape)
    error = float(np.sum((got.astype(np.float64) - wanted_outputs) ** 2))
    power = float(np.sum(wanted_outputs.astype(np.float64) ** 2))
    db = 10 * np.log10(power / error) if error > 0 else np.inf
    if db < about["least_sqnr_db"]:
        found.append(
            f"outputs differ from those that were measured: {db:.0f} dB signal to noise, "
            f"at least {about['least_sqnr_db']} expected"
        )
    return found


def timed(run: Run, feeds: dict[str, Any], seconds: float) -> tuple[float, float, float, int]:
    """Median, 5th and 95th percentile of one call in ms, and the number of calls."""
    for _ in range(3):
        run(feeds)
    calls: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(calls) < 10:
        began = time.perf_counter_ns()
        run(feeds)
        calls.append((time.perf_counter_ns() - began) / 1e6)
    calls.sort()
    return (
        statistics.median(calls),
        calls[int(0.05 * len(calls))],
        calls[min(int(0.95 * len(calls)), len(calls) - 1)],
        len(calls),
    )


def answer(about: dict[str, Any], run: Run, files: list[str]) -> None:
    """Print the two likeliest classes of each image."""
    labels = json.loads((HERE / "labels.json").read_text(encoding="utf-8"))
    for file in files:
        pixels = preprocess(Path(file), about["preprocess"])[None]
        scores = np.asarray(
            run({about["inputs"][0]: normalize(pixels, about["preprocess"])})[about["scored"]]
        ).reshape(-1)
        best = np.argsort(scores)[::-1][:2]
        print(f"{file}: " + ", ".join(f"{labels[i]} ({scores[i]:.2f})" for i in best))


def main() -> int:
    """Check, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", help="your own images")
    parser.add_argument("--threads", type=int, help="default: as it was measured")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to time")
    parser.add_argument("--any-version", action="store_true", help="accept other versions")
    given = parser.parse_args()
    about = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))
    about["preprocess"] = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    threads = given.threads or about["threads"]
    try:
        run = load(about, threads, 1)
    except ImportError as error:
        print(f"cannot run: {error}. pip install -r requirements.txt", file=sys.stderr)
        return 2
    if given.images:
        if not about["preprocess"]:
            print("this model is not fed images", file=sys.stderr)
            return 2
        answer(about, run, given.images)
        return 0
    examples = np.load(HERE / "examples.npz", allow_pickle=False)
    found = problems(about, examples, run, given.any_version)
    for line in found:
        print(f"NOT AS MEASURED  {line}")
    if not found:
        count = len(examples["outputs"])
        print(f"as measured      {count} inputs, preprocessing, outputs, files and versions agree")
    feed = {n: examples[f"input_{n}"][:1] for n in about["inputs"]}
    median, low, high, calls = timed(run, feed, given.seconds)
    print(
        f"time             {median:.2f} ms a call at batch 1 (5 to 95 %: {low:.2f} to {high:.2f}; "
        f"{calls} calls, {threads} threads); where it was measured: {about['p50_ms']}"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
