"""Costs of single functions: the cache, a data set's listing, calibration, prepared images.

What is called is pqbench itself; :mod:`fixed_costs` and :mod:`growth` print it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent

CALIBRATE = """
import json, resource, sys, time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from costs_in_process import calibrate
folder, method, count, kind = Path(sys.argv[2]), *sys.argv[3:]
with redirect_stdout(StringIO()):
    seconds = calibrate(folder, method, int(count), kind == "bare")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"s": seconds, "mb": peak}))
"""


def keep_seconds(folder: Path, counts: Sequence[int], limit_gb: float = 50.0) -> dict[int, float]:
    """Median time of one ``Cache.keep`` of a small entry, by the number of entries there are."""
    from pqbench.cache import Cache
    from pqbench.core.artifact import RESULT

    cache = Cache(folder, limit_gb)
    text = json.dumps({"name": "made", "files": {}})
    found: dict[int, float] = {}
    there = 0
    for count in sorted(counts):
        while there < count:
            entry = cache.stages / f"{there:032x}"
            entry.mkdir(parents=True)
            (entry / "model.onnx").write_bytes(b"0" * 1000)
            (entry / RESULT).write_text(text)
            there += 1
        taken = []
        for number in range(6):
            target = cache.stages / f"{10**9 + there + number:032x}"
            aside = cache.aside(target)
            (aside / "model.onnx").write_bytes(b"0" * 1000)
            began = time.perf_counter()
            cache.keep(aside, target, {"name": "kept"})
            taken.append(time.perf_counter() - began)
        there += 6
        cache.close()
        found[count] = statistics.median(taken[1:])  # the first one may have to look at all
    return found


def make_images(folder: Path, count: int, classes: int = 10) -> None:
    """So many files that are called as images; listings do not open them."""
    for number in range(count):
        place = folder / ("train" if number % 4 else "val") / f"class{number % classes}"
        if number < 8 * classes:
            place.mkdir(parents=True, exist_ok=True)
        with (place / f"{number:07d}.png").open("wb") as file:
            file.truncate(100_000)  # sparse: of more than 128 MiB the content is not read


def listing_seconds(folder: Path) -> tuple[float, float, float]:
    """Listing of a folder's images, its hash, and ``os.scandir`` with one ``stat`` a file."""
    from pqbench.data.folder import ImageFolder

    began = time.perf_counter()
    index = ImageFolder(root=str(folder)).index()
    listed = time.perf_counter()
    index.listing_hash()
    hashed = time.perf_counter()
    waiting = [str(folder)]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            if entry.is_dir():
                waiting.append(entry.path)
            else:
                entry.stat()
    return listed - began, hashed - listed, time.perf_counter() - hashed


def lookup_seconds(folder: Path, megabytes: int, times: int = 3) -> list[float]:
    """Finding one entry of the cache that holds a large file, again and again."""
    from pqbench.cache import Cache

    cache = Cache(folder, None)
    entry = cache.stages / ("a" * 32)
    aside = cache.aside(entry)
    with (aside / "input.npy").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(2**10) * 2**10)
    cache.keep(aside, entry, {"name": "prepare_val"})
    cache.close()
    time.sleep(2.1)  # what was written just now may be written again
    taken = []
    for _ in range(times):
        again = Cache(folder, None)
        began = time.perf_counter()
        assert again.find(entry) is not None
        taken.append(time.perf_counter() - began)
        again.close()
    return taken


def prepare_calibration(folder: Path) -> None:
    """EfficientNet-Lite0 with its trained weights as ONNX, and photographs of solar cells."""
    sys.path.insert(0, str(HERE.parents[2] / "tests" / "helpers"))
    from compress_models import make_onnx, make_torch
    from prepared_images import elpv_split

    split = elpv_split(folder / "split", 64, 224)
    make_onnx(make_torch("efficientnet_lite0", folder / "torch", split), folder / "onnx")


def calibrate(folder: Path, method: str, count: int, bare: bool) -> float:
    """Seconds of quantizing with histograms: ONNX Runtime's own call, or ``ort_int8``."""
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from pqbench.compress.calibration import draw
    from pqbench.compress.ort_int8 import METHODS, OrtInt8, _Reader
    from pqbench.core.artifact import Artifact
    from pqbench.core.split import PreparedSplit
    from pqbench.core.step import StepData

    source, split = Artifact.load(folder / "onnx"), PreparedSplit.load(folder / "split")
    data = StepData(split, seed=0, threads=os.cpu_count() or 1)
    out = folder / f"{method}-{'bare' if bare else 'ours'}-{time.monotonic_ns()}"
    out.mkdir()
    reader = _Reader(draw(source, data, count))
    began = time.perf_counter()
    if not bare:
        OrtInt8(calibration_size=count, method=method).apply(source, data, out)
        return time.perf_counter() - began
    quant_pre_process(source.path, out / "ready.onnx")
    quantize_static(
        out / "ready.onnx",
        out / "model.onnx",
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[METHODS[method]],
        extra_options={"CalibPercentile": 99.999, "ActivationSymmetric": False},
    )
    return time.perf_counter() - began


def calibration_cost(folder: Path, method: str, count: int, bare: bool) -> tuple[float, float]:
    """:func:`calibrate` in a process of its own: seconds, and its peak memory in MiB."""
    arguments = [str(HERE), str(folder), method, str(count), "bare" if bare else "ours"]
    done = subprocess.run(
        [sys.executable, "-c", CALIBRATE, *arguments], check=True, capture_output=True, text=True
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["s"], answer["mb"]


def images_per_second(root: Path, folder: Path, count: int, threads: int) -> tuple[float, float]:
    """Images prepared per second by pqbench, and decoded alone by Pillow, with so many threads."""
    from concurrent.futures import ThreadPoolExecutor
    from io import BytesIO

    from PIL import Image

    from pqbench.core.dataset import Split
    from pqbench.core.preprocess import OnError
    from pqbench.data.prepare import write_pixels
    from pqbench.data.preprocess import Preprocess

    files = sorted(root.rglob("*.JPEG"))[:: max(1, len(list(root.rglob("*.JPEG"))) // count)]
    files = files[:count]
    split = Split(tuple(files), (0,) * len(files))
    preprocess = Preprocess(resize=232, crop=224)

    def decode(file: Path) -> None:
        with Image.open(BytesIO(file.read_bytes())) as image:
            image.load()

    for file in files:
        file.read_bytes()
    began = time.perf_counter()
    write_pixels(split, preprocess, folder / "input.npy", OnError.fail, threads)
    ours = time.perf_counter() - began
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, files))
    return len(files) / ours, len(files) / (time.perf_counter() - began)
