"""Other people's cases (``tests/cases``) from command to record, against plain torch."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_files
import pyarrow.parquet as pq
import pytest
import torch
from test_tasks import QUICK

from pqbench.core.record import Record
from pqbench.report.load import find_records

REPOSITORY = Path(__file__).resolve().parent.parent
SHOWN = 20  # validation images of each class
MEAN, STD = 0.5, 0.25
Scores = Callable[[Any], torch.Tensor]
IMAGES = {"crop": 32, "resize": 32, "mean": [MEAN] * 3, "std": [STD] * 3}


@dataclass(frozen=True)
class Case:
    """One case: its configuration, its data, and what is known of the outcome.

    Attributes:
        model: Name of its ``conf/model/<name>.yaml``.
        data: Folder of images.
        change: Further settings, as in a file of ``conf/experiment``.
        kind: Class in ``tbnets`` whose accuracy is expected; None if it is refused.
        file: Its weights.
        scores: From its outputs to one score per class.
        order: Key by which the class folders are sorted.
        says: What a note must say, or the error's message.
        compress: Recipe, after which the same is asked of the uncompressed model.
        backend: Runtime.
    """

    model: str
    data: str = "digits"
    change: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    file: str = ""
    scores: Scores = lambda value: value
    order: Callable[[str], Any] = str
    says: str = ""
    compress: str = "none"
    backend: str = "torch"


def weights(file: str) -> dict[str, Any]:
    return {"model": {"weights_file": file}}


CASES = {
    "features-and-logits": Case(
        "featlog", kind="FeaturesAndLogits", file="featlog.pth",
        scores=lambda z: z[1], says="'1' is scored",
    ),
    "dict-output": Case(
        "dictout", kind="DictOut", file="dictout.pth",
        scores=lambda z: z["logits"], says="'logits' is scored",
    ),
    "cosine-head": Case("cosine", kind="CosineHead", file="cosine.pth"),
    "lazy-modules": Case("lazyhidden", kind="LazyHidden", file="lazyhidden.pth"),
    "shared-weights": Case("shared", kind="SharedBlocks", file="shared.pth"),
    "one-logit-head": Case(
        "bce", "binary", kind="OneLogit", file="bce.pth",
        scores=lambda z: torch.cat([1 - z.sigmoid(), z.sigmoid()], 1).log(), says="sigmoid > 0.5",
    ),
    "lightning-class-weights": Case(
        "plain", change=weights("lit_criterion.ckpt"), kind="Plain", file="plain.pth",
        says="criterion.weight",
    ),
    "lightning-hydra-template": Case(
        "plain", change=weights("lit_net.ckpt"), kind="Plain", file="plain.pth"
    ),
    "natural-class-order": Case(
        "natural12", "digits12", {"dataset": {"classes": [str(i) for i in range(12)]}},
        "Plain", "natural12.pth", order=int,
    ),
    "kaggle-training-testing": Case("plain", "kaggle", kind="Plain", file="plain.pth"),
    "ppm-images": Case("plain", "gtsrb", kind="Plain", file="plain.pth"),
    "val-lacks-a-class": Case(
        "plain", "subset", kind="Plain", file="plain.pth", says="no image of 1 of 10 classes: 7"
    ),
    "stale-cache-two-files": Case("mine2", kind="Plain", file="plain.pth"),
    "classes-differ-from-head": Case(
        "plain", "binary", says="has 10 outputs, data set binary has 2 classes"
    ),
    "dropout-always-on": Case("alwaysdrop", says="it draws random numbers in inference"),
    "squeeze-batch-1": Case("squeezer", says="at batch 1 the output of Squeezer is (10,)"),
    "random-attribute": Case("randperm_scratch", says="two builds of RandPerm"),
    "git-lfs-pointer": Case("plain", change=weights("lfs.pth"), says="is a git-lfs pointer"),
    "grey-network": Case("grey", says="Grey takes images of one channel"),
}  # fmt: skip
PRUNED = {
    name: Case(model, compress="prune")
    for name, model in {
        "prune-c2f": "c2f", "prune-pixelshuffle": "pixshuf", "prune-vit-qkv": "vit",
    }.items()
}  # fmt: skip


def onnx_case(file: str, compress: str = "none", backend: str = "ort", **more: Any) -> Case:
    """A case of an ONNX file on the images of two classes."""
    change = {"model": {"file": file, "preprocess": IMAGES}, **more.pop("change", {})}
    return Case("onnx", "binary", change, "", file, compress=compress, backend=backend, **more)


FEW = {"calibration_size": 8}
ONNX = {
    "dim-minus-one": onnx_case("dim_minus1.onnx", says="sizes of -1 or 0 made free"),
    "fixed-inside": onnx_case("fixed_inside.onnx", says="runs at batch 1 alone"),
    "head-n-c-1-1": onnx_case("conv_head.onnx"),
    "if-captures-input": onnx_case("if_capture.onnx"),
    "softmax-twice": onnx_case("softmax.onnx"),
    "unranked": onnx_case("unranked.onnx"),
    "bn-training-mode": onnx_case(
        "bn_training.onnx", says="BatchNormalization with training_mode=1"
    ),
    "stale-model-file": onnx_case("m.onnx"),
    "second-output-without-batch": onnx_case("scalar_second.onnx", backend="openvino"),
    "concat-axis-minus-one": onnx_case(
        "concat_axis.onnx", "ort_int8", change={"compress": {"ort_int8": FEW}}
    ),
    "fp16-weights": onnx_case(
        "fp16_inside.onnx", "nncf_int8", change={"compress": {"nncf_int8": FEW}}
    ),
    "sequence-types": onnx_case(
        "seq_output_second.onnx", "ort_int8", change={"compress": {"ort_int8": FEW}}
    ),
    "weights-in-constant-nodes": onnx_case("const_weights_all.onnx", "prune_onnx"),
    "weights-in-constant-nodes-mixed": onnx_case("const_weights_mixed.onnx", "prune_onnx"),
    "sequence-input": onnx_case("seq_input.onnx", says="is a sequence"),
    "ir-too-new": onnx_case("ir99.onnx", says="is written in IR version 99"),
    "detector": onnx_case("detector.onnx", says="no output holds one score per class"),
}
CHOSEN = (
    "natural-class-order", "stale-cache-two-files", "classes-differ-from-head", "prune-vit-qkv",
    "softmax-twice",
    "stale-model-file", "weights-in-constant-nodes-mixed", "ir-too-new",
)  # fmt: skip
ONNX_REFUSED = ("sequence-input", "ir-too-new", "detector")
EVERYTHING = {**CASES, **PRUNED, **ONNX}
# Two minutes for all. Of each kind one is enough here: the others go through the same stages in
# tests/models, tests/data and tests/compress.
ALL = bool(os.environ.get("PQBENCH_ALL_CASES"))
SWEPT = {name: case for name, case in EVERYTHING.items() if ALL or name in CHOSEN}
PROBABILITIES = ("softmax-twice",)


def names(cases: Iterable[str]) -> list[str]:
    """Those that are run."""
    return [name for name in cases if name in SWEPT]


def few_images(given: Path, folder: Path) -> None:
    """The cases' folders of images, ``SHOWN`` a class and split, and two more kinds of them."""
    from PIL import Image

    for source in sorted(given.glob("*/*/*")):
        data, split, name = source.relative_to(given).parts
        target = folder / data / split / name
        target.mkdir(parents=True)
        images = sorted(source.iterdir())
        for image in images[:: max(1, len(images) // SHOWN)]:
            shutil.copy(image, target / image.name)
    for image in sorted((folder / "digits").rglob("*.png")):
        split, name, file = image.relative_to(folder / "digits").parts
        target = folder / "gtsrb" / split / f"{int(name):05d}" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(image).convert("RGB").save(target.with_suffix(".ppm"))
    shutil.copytree(folder / "digits", folder / "subset")
    shutil.rmtree(folder / "subset" / "val" / "7")


def experiment(name: str, case: Case, images: Path) -> str:
    """A file of ``conf/experiment``."""
    settings = {**case.change, "model": {**case.change.get("model", {}), "name": name}}
    root = {"name": case.data, "root": str(images / case.data)}
    settings["dataset"] = {**root, **case.change.get("dataset", {})}
    chosen = {"model": case.model, "dataset": "imagefolder", "compress": case.compress}
    chosen["backend"] = case.backend
    lines = ["# @package _global_", "defaults:"]
    lines += [f"  - override /{group}: {choice}" for group, choice in chosen.items()]
    lines += [f"{key}: {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def set_up(folder: Path, torch_cases: Path, onnx_cases: Path, images: Path) -> None:
    """A user's folder: all configurations, weights and modules of the cases, and their images."""
    few_images(images, folder / "images")
    for group in ("model", "experiment"):
        (folder / "conf" / group).mkdir(parents=True)
    for file in (f for cases in (torch_cases, onnx_cases) for f in cases.glob("*/*")):
        if file.suffix in (".pth", ".ckpt", ".py", ".onnx"):
            shutil.copy(file, folder / file.name)
    for file in torch_cases.glob("*/conf/model/*.yaml"):
        shutil.copy(file, folder / "conf" / "model" / file.name)
    shutil.copy(torch_cases / "tbnets.py", folder)
    shutil.copy(folder / "a.onnx", folder / "m.onnx")
    for name, case in SWEPT.items():
        text = experiment(name, case, folder / "images")
        (folder / "conf" / "experiment" / f"{name}.yaml").write_text(text)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(REPOSITORY), str(folder)])
    return subprocess.run(
        [sys.executable, "-m", "pqbench", "--config-dir", "conf", *QUICK, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@dataclass(frozen=True)
class Swept:
    """What a sweep over all cases left."""

    folder: Path
    found: dict[tuple[str, str], tuple[Record, Path]]

    def record(self, name: str, recipe: str = "none") -> Record:
        return self.found[name, recipe][0]

    def predictions(self, name: str) -> dict[str, tuple[int, float]]:
        """Class number and its probability by the image's SHA-256."""
        table = pq.read_table(self.found[name, "none"][1] / "predictions.parquet")
        columns = [table[c].to_pylist() for c in ("source", "prediction", "probability")]
        return {key: (label, share) for key, label, share in zip(*columns, strict=True)}


def collect(folder: Path) -> dict[tuple[str, str], tuple[Record, Path]]:
    return {
        (record.experiment.model, record.experiment.recipe_name): (record, path)
        for record, path in find_records(folder / "outputs")
    }


@pytest.fixture(scope="module")
def swept(
    torch_cases: Path,
    onnx_cases: Path,
    case_images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Swept:
    folder = tmp_path_factory.mktemp("user")
    set_up(folder, torch_cases, onnx_cases, case_images)
    done = run(folder, f"experiment={','.join(SWEPT)}", "-m")
    assert done.returncode == 3, done.stdout + done.stderr  # some are refused
    return Swept(folder, collect(folder))


@functools.cache
def images_of(root: Path) -> tuple[torch.Tensor, list[str], list[str]]:
    """Images as the cases' networks take them, their folders' names, their SHA-256."""
    from PIL import Image
    from torchvision import transforms

    steps = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([MEAN] * 3, [STD] * 3),
        ]
    )
    files = sorted(f for f in root.rglob("*.*") if f.is_file())
    batch = torch.stack([steps(Image.open(f).convert("RGB")) for f in files])
    digests = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    return batch, [f.parent.name for f in files], digests


def check_scores(name: str, case: Case, swept: Swept, scores: torch.Tensor) -> None:
    """Every prediction, its probability and the accuracy are those of plain scores."""
    root = swept.folder / "images" / case.data
    _, labels, digests = images_of(root / ("Testing" if case.data == "kaggle" else "val"))
    train = root / ("Training" if case.data == "kaggle" else "train")
    classes = sorted((p.name for p in train.iterdir()), key=case.order)
    record, got = swept.record(name), swept.predictions(name)
    assert record.ok, record.error
    assert len(got) == len(digests)
    predicted = scores.argmax(1).tolist()
    assert [got[d][0] for d in digests] == predicted
    shares = scores.softmax(1).max(1).values.numpy()
    np.testing.assert_allclose([got[d][1] for d in digests], shares, atol=2e-3)
    assert record.accuracy is not None
    right = np.mean([classes[p] == label for p, label in zip(predicted, labels, strict=True)])
    assert record.accuracy.top1 == pytest.approx(float(right))
    assert case.says in " ".join(record.notes)


@pytest.mark.parametrize("name", names(n for n, case in CASES.items() if case.kind))
def test_case_gets_the_scores_of_plain_torch(name: str, swept: Swept) -> None:
    import tbnets

    case = CASES[name]
    arguments = {"num_classes": 12} if case.data == "digits12" else {}
    network: torch.nn.Module = getattr(tbnets, str(case.kind))(**arguments).eval()
    split = "Testing" if case.data == "kaggle" else "val"
    batch = images_of(swept.folder / "images" / case.data / split)[0]
    with torch.inference_mode():
        network(batch[:2])  # lazy layers get their shapes
        network.load_state_dict(torch.load(swept.folder / case.file, weights_only=True))
        check_scores(name, case, swept, case.scores(network(batch)))


@pytest.mark.parametrize("name", names(n for n in ONNX if n not in ONNX_REFUSED))
def test_case_gets_the_scores_of_plain_onnxruntime(name: str, swept: Swept) -> None:
    case = ONNX[name]
    batch = images_of(swept.folder / "images" / case.data / "val")[0]
    rows = onnx_files.run_plain(swept.folder / case.file, batch.numpy(), outputs=["y"])[0]
    scores = torch.from_numpy(rows.reshape(len(rows), -1))
    check_scores(name, case, swept, scores.log() if name in PROBABILITIES else scores)


@pytest.mark.parametrize(
    "name", names([*(n for n, case in CASES.items() if case.kind is None), *ONNX_REFUSED])
)
def test_case_is_refused_in_one_line_and_not_timed(name: str, swept: Swept) -> None:
    record = swept.record(name)
    assert not record.ok
    assert not record.latency
    assert record.error is not None
    assert SWEPT[name].says in record.error.message
    assert "\n" not in record.error.message
    assert record.error.hint


@pytest.mark.parametrize("name", names(PRUNED))
def test_case_is_pruned(name: str, swept: Swept) -> None:
    base, pruned = swept.record(name), swept.record(name, "prune")
    assert base.ok, base.error
    assert pruned.ok, pruned.error
    assert base.size.parameters is not None
    assert pruned.size.parameters is not None
    assert pruned.size.parameters < 0.9 * base.size.parameters


@pytest.mark.parametrize("name", names(n for n, case in ONNX.items() if case.compress != "none"))
def test_case_of_an_onnx_file_is_compressed(name: str, swept: Swept) -> None:
    recipe = ONNX[name].compress
    base, small = swept.record(name), swept.record(name, recipe)
    if name == "fp16-weights":
        assert small.error is not None
        assert (small.error.message, small.error.hint) == (
            "nncf_int8: the model's weights are float16", "start from the float32 file"
        )  # fmt: skip
        return
    assert small.ok, small.error
    assert base.size.parameters == small.size.parameters
    if recipe == "prune_onnx":
        assert base.size.parameters == 5154
        assert small.size.nonzero_parameters == 50 + 5104 // 2
        return
    assert small.size.file_ratio is not None
    assert small.accuracy is not None


def test_change_in_a_second_file_is_measured_anew(swept: Swept, tmp_path: Path) -> None:
    """Of a module that the network's own imports, and of an ONNX file of the same name."""
    shutil.copytree(swept.folder, changed := tmp_path / "changed")
    (changed / "mylayers.py").write_text("def act(x):\n    return x * 0\n")
    shutil.copy(changed / "b.onnx", changed / "m.onnx")
    done = run(changed, "experiment=stale-cache-two-files,stale-model-file", "-m")
    assert done.returncode == 0, done.stdout + done.stderr
    again = Swept(changed, collect(changed))
    assert len({label for label, _ in again.predictions("stale-cache-two-files").values()}) == 1
    batch, *_ = images_of(changed / "images" / "binary" / "val")
    rows = onnx_files.run_plain(changed / "b.onnx", batch.numpy())[0]
    check_scores("stale-model-file", ONNX["stale-model-file"], again, torch.from_numpy(rows).log())
