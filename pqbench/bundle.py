"""``python -m pqbench.bundle RECORD --out DIR``: take away what was measured, ready to run.

The folder holds the deployed model, preprocessing and labels as data, eight real inputs with the
outputs that were scored, versions, a model card made from the record, and a ``run.py`` that needs
NumPy, Pillow and the runtime, and no pqbench: on the target machine it checks that everything is as
it was measured, and times the model.

The inputs come from the record's data set, so the classes that it names are run: those of pqbench,
and of packages that ``--allow`` names. Exit codes: 0 made; 2 it cannot be made.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.app.arguments import config_folder
from pqbench.app.trust import check_trust
from pqbench.core.artifact import Artifact
from pqbench.core.dataset import DataIndex, Dataset
from pqbench.core.errors import ConfigError, DataError, PqbenchError, UnsupportedError
from pqbench.core.files import file_sha256, write_json
from pqbench.core.instantiate import make
from pqbench.core.parity import FLOAT_SQNR_DB
from pqbench.core.paths import inside
from pqbench.core.record import Record
from pqbench.core.split import PreparedSplit
from pqbench.core.terminal import exit_code
from pqbench.experiment.config import ExperimentConfig, from_plain, register
from pqbench.experiment.scored_split import scored_split
from pqbench.report.bundle import card
from pqbench.report.load import find_records

EXAMPLES = 8
INTEGER_SQNR_DB = 20.0  # asked of integer kernels, whose rounding differs between processors
RUNTIMES = {
    "onnx": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    "openvino": ("openvino", ("openvino",)),
    "torch": ("torch", ("torch",)),
}
PLAIN = (
    "pqbench.backends.ort.backend.OrtBackend",
    "pqbench.backends.openvino.backend.OpenvinoBackend",
    "pqbench.backends.torch.backend.TorchBackend",
)
PROGRAM = "model.pt2"


def main(argv: Sequence[str] | None = None) -> int:
    """Make a bundle.

    Returns:
        0, or 2 if it cannot be made.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pqbench.bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "record", type=Path, metavar="RECORD", help="record.json, its folder, or that of a sweep"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PACKAGE",
        help="run classes of this package too, if the record names some",
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        record, folder = find(args.record)
        bundle(record, folder, args.out, args.allow)
    except PqbenchError as error:
        print(f"pqbench: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pqbench: cannot write {args.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    what = record.experiment
    print(f"{args.out}: {what.model} · {what.recipe_name} · {what.backend}")
    print(f"check and time it there:  python {args.out}/run.py")
    return 0


def find(path: Path) -> tuple[Record, Path]:
    """The record that is meant, and its folder: the record itself, or a sweep's answer.

    Raises:
        DataError: There is none, or the sweep has no answer.
    """
    if path.is_file() or (path / "record.json").is_file():
        return Record.load(path), path.parent if path.is_file() else path
    answer = path / "report" / "answer.json"
    found = find_records(path)
    if not found:
        raise DataError(f"no record in {path}", hint="give the folder of a run or of a sweep")
    try:
        wanted = json.loads(answer.read_text(encoding="utf-8"))["answer"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{path} holds {len(found)} records and no report/answer.json",
            hint="name one record's folder",
        ) from None
    named = [pair for pair in found if wanted and pair[0].fingerprint == wanted["fingerprint"]]
    if not named:
        raise DataError(
            f"the sweep in {path} has no answer: nothing was shown to keep the claims",
            hint="name one record's folder to bundle it all the same",
        )
    return named[0]


def bundle(record: Record, folder: Path, out: Path, allow: Sequence[str] = ()) -> None:
    """Write the bundle of a record.

    Args:
        record: What was measured.
        folder: The folder of the record and of the files beside it.
        out: Where to write; must not exist, or be empty.
        allow: Packages beside pqbench whose classes the record may name.

    Raises:
        DataError: The record has no result, misses files, or its data set has changed.
        UnsupportedError: There is no way to run this model without pqbench.
        ConfigError: ``out`` is in use, or the record names classes that are not trusted.
    """
    if not record.ok:
        why = record.error.message if record.error else ""
        raise DataError(f"the experiment has no result ({record.status}): {why}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is in use", hint="give a new folder with --out")
    if "logits" not in record.files:
        raise DataError("the record holds no outputs: it was not scored")
    artifact = Artifact.load(inside(folder, record.files["model"]))
    if artifact.representation not in RUNTIMES:
        raise UnsupportedError(
            f"a {artifact.representation} model runs in pqbench alone",
            hint="bundle a cell on ONNX Runtime or OpenVINO",
        )
    _check_runtime(record.config.get("backend") or {})
    register()
    check_trust(record.config, config_folder(), allow)
    config = from_plain(record.config)
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as name:
        aside = Path(name) / "bundle"
        aside.mkdir()
        file = _model(artifact, aside / "model")
        scored = scored_split(config, Path(name) / "split")
        _examples(config, scored, inside(folder, record.files["logits"]), aside)
        _about(record, artifact, file, config, aside)
        if out.is_dir():
            out.rmdir()
        aside.chmod(0o755)
        shutil.move(aside, out)


def _check_runtime(backend: Mapping[str, Any]) -> None:
    """Refuse what ``run.py`` would run in another way than it was measured.

    Raises:
        UnsupportedError: It is another runtime than three plain ones, or not on the CPU.
    """
    target = str(backend.get("_target_"))
    plain = (
        target in PLAIN
        and str(backend.get("device", "cpu")).lower() == "cpu"
        and backend.get("mode", "eager") == "eager"
        and (target != PLAIN[2] or backend.get("precision", "fp32") == "fp32")
    )
    if not plain:
        raise UnsupportedError(
            f"a bundle runs ONNX Runtime, OpenVINO or PyTorch (eager, FP32) on the CPU, this was "
            f"measured on {backend.get('name')}",
            hint="bundle a cell on one of those",
        )


def _model(artifact: Artifact, target: Path) -> str:
    """Copy the model's files; a torch network becomes a program that needs torch alone."""
    target.mkdir()
    if artifact.representation != "torch":
        for path in artifact.model_files():
            place = target / path.relative_to(artifact.folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        return artifact.file
    import torch

    from pqbench.nets.checkpoint import load_network

    network = load_network(artifact)
    inputs = tuple(
        torch.zeros([1, *(d or 1 for d in s.shape[1:])], dtype=getattr(torch, s.dtype))
        for s in artifact.inputs
    )
    torch.export.save(torch.export.export(network, inputs), target / PROGRAM)
    return PROGRAM


def _examples(config: ExperimentConfig, scored: PreparedSplit, logits: Path, out: Path) -> None:
    """Eight inputs of the scored split, as files where they are images, and their outputs."""
    outputs: npt.NDArray[Any] = np.load(logits, mmap_mode="r", allow_pickle=False)
    if len(outputs) != scored.count:
        raise DataError(
            f"the data set has {scored.count} samples now, {len(outputs)} were scored",
            hint="bundle on the machine and with the data that were measured",
        )
    chosen = scored.spread(EXAMPLES, config.seed)
    images = config.model.preprocess is not None and len(scored.arrays) == 1
    if images:
        index = make(config.dataset.source, "dataset.source", Dataset).index()
        # In the order of the files' names, which is the order in which run.py reads them.
        _copy_images(index, config.dataset.split, [scored.sources[i] for i in chosen], out)
    feed = scored.feed(chosen)
    inputs = {f"input_{name}": array for name, array in feed.items()}
    inputs["outputs"] = np.asarray(outputs[chosen])
    np.savez_compressed(out / "examples.npz", allow_pickle=False, **inputs)
    settings = None
    if images and config.model.preprocess is not None:
        settings = {
            **{k: _plain(v) for k, v in asdict(config.model.preprocess).items()},
            "mode": config.dataset.resize_mode.value,
        }
    write_json(out / "preprocess.json", settings)
    write_json(out / "labels.json", list(scored.classes))


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _copy_images(index: DataIndex, split: str, sources: Sequence[str], out: Path) -> None:
    """The original files of some samples, found by content; samples in memory become PNG files."""
    from PIL import Image

    from pqbench.data.subset import content_key

    folder = out / "inputs"
    folder.mkdir()
    listed = index.split(split)
    wanted = {sha256: number for number, sha256 in reversed(list(enumerate(sources)))}
    found: set[str] = set()
    for position, file in enumerate(listed.files):
        if len(found) == len(wanted):
            break
        sample = listed.samples[position] if listed.samples is not None else None
        key = file_sha256(file) if sample is None else content_key(sample)
        if key not in wanted or key in found:
            continue
        found.add(key)
        if sample is None:
            shutil.copyfile(file, folder / f"{wanted[key]}{file.suffix.lower()}")
        else:
            Image.fromarray(np.asarray(sample, np.uint8)).save(folder / f"{wanted[key]}.png")
    if len(found) < len(wanted):
        raise DataError("the data set no longer holds the images that were scored")


def _about(
    record: Record, artifact: Artifact, file: str, config: ExperimentConfig, out: Path
) -> None:
    """Write bundle.json, requirements.txt, the card and run.py."""
    runtime, packages = RUNTIMES[artifact.representation]
    libraries: Mapping[str, str] = record.environment.get("libraries") or {}
    version = next((libraries[p].partition("+")[0] for p in packages if p in libraries), "")
    placement, latency = record.placement, record.latency_at(1)
    integer = bool(placement and placement.integer)
    write_json(
        out / "bundle.json",
        {
            "record": record.fingerprint,
            "experiment": asdict(record.experiment),
            "runtime": runtime,
            "version": version,
            "file": file,
            "sha256": {
                path.relative_to(out / "model").as_posix(): file_sha256(path)
                for path in sorted((out / "model").rglob("*"))
                if path.is_file()
            },
            "inputs": [spec.name for spec in artifact.inputs],
            "shapes": {spec.name: list(spec.shape[1:]) for spec in artifact.inputs},
            "outputs": list(artifact.outputs),
            "scored": 0,
            "threads": config.threads,
            "precision": str(config.backend.get("precision", "f32")),
            "keep_memory": bool(placement and placement.details.get("keep_memory")),
            "least_sqnr_db": INTEGER_SQNR_DB if integer else FLOAT_SQNR_DB,
            "p50_ms": f"{latency.p50_ms:.2f} ms" if latency else "not timed at batch 1",
        },
    )
    wanted = [f"{runtime}=={version}" if version else runtime, "numpy", "pillow"]
    (out / "requirements.txt").write_text("\n".join(wanted) + "\n", encoding="utf-8")
    text = card.model_card(record, f"{runtime} {version}".strip())
    (out / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    shutil.copyfile(Path(card.__file__).with_name("run.py"), out / "run.py")


if __name__ == "__main__":
    sys.exit(exit_code(main))
