"""The checks pass what is shipped, and name what is wrong in parts that break their contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from session_backends import OnnxBackend, OnnxSession, write_onnx_model
from torch import Tensor, nn

from pqbench import (
    Artifact,
    Availability,
    DataIndex,
    Dataset,
    LineageEntry,
    Placement,
    Representation,
    Session,
    Split,
    Step,
    StepData,
    UnavailableError,
)
from pqbench.backends.openvino.backend import OpenvinoBackend
from pqbench.backends.ort.backend import OrtBackend
from pqbench.backends.torch.backend import TorchBackend
from pqbench.compress.fp16 import Fp16
from pqbench.compress.prune_unstructured import PruneUnstructured
from pqbench.compress.sensitivity import Sensitivity
from pqbench.compress.torch_dynamic import TorchDynamic
from pqbench.core.backend import Backend
from pqbench.core.step import Kind
from pqbench.data.elpv import Elpv
from pqbench.data.synthetic import Synthetic
from pqbench.models.cnn import Cnn
from pqbench.nets.checkpoint import load_network, save_like
from pqbench.testing import (
    BrokenContract,
    check_backend,
    check_dataset,
    check_model,
    check_step,
)


@pytest.mark.parametrize("step", [PruneUnstructured, Fp16, Sensitivity(), TorchDynamic()])
def test_check_step_passes_shipped_steps(step: Step | type[Step]) -> None:
    check_step(step)


@pytest.mark.parametrize("kind", [OrtBackend, TorchBackend, OpenvinoBackend])
def test_check_backend_passes_shipped_backends(kind: type[Backend]) -> None:
    check_backend(kind())


@pytest.mark.parametrize("task", ["classification", "segmentation", "text_classification"])
def test_check_dataset_passes_shipped_data(task: str) -> None:
    check_dataset(Synthetic(task=task, classes=5))


def test_check_dataset_passes_the_photographs_of_solar_cells() -> None:
    check_dataset(Elpv)


def test_check_model_passes_a_shipped_network() -> None:
    check_model(Cnn, "head")


# -- steps -----------------------------------------------------------------------------------------


class Rounds(Step):
    """A good step, of which each below does one thing wrong."""

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    def change(self, network: nn.Module, data: StepData) -> None:
        for parameter in network.parameters():
            parameter.data = parameter.data.round(decimals=2)

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        network = load_network(artifact)
        self.change(network, data)
        return save_like(network, artifact, workdir, LineageEntry("round", 0.0))


class GivesOther(Rounds):
    gives: ClassVar[Representation] = "onnx"


class TakesNothing(Rounds):
    takes: ClassVar[tuple[Representation, ...]] = ()


class TakesUnknown(Rounds):
    takes: ClassVar[tuple[Any, ...]] = ("tflite",)


class LimitIsAString(Rounds):
    limits = "only small networks"


class OtherKind(Rounds):
    kind: ClassVar[Any] = "distil"


class RefusesWhatItGives(Rounds):
    why_not: ClassVar[Mapping[Representation, str]] = {"torch": "it does not"}


class Unsaved(Rounds):
    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        made = super().apply(artifact, data, workdir)
        (workdir / "artifact.json").unlink()
        return made


class InPlace(Rounds):
    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        return artifact


class Overwrites(Rounds):
    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        made = super().apply(artifact, data, workdir)
        artifact.path.write_bytes(made.path.read_bytes())
        return made


class ForgetsItself(Rounds):
    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        made = replace(super().apply(artifact, data, workdir), lineage=artifact.lineage)
        made.save()
        return made


class Unseeded(Rounds):
    def change(self, network: nn.Module, data: StepData) -> None:
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)


class ChangingAnalysis(Rounds):
    kind: ClassVar[Kind] = "analyse"

    def change(self, network: nn.Module, data: StepData) -> None:
        for parameter in network.parameters():
            parameter.data = parameter.data * 0.5


class Diverges(Rounds):
    def change(self, network: nn.Module, data: StepData) -> None:
        for parameter in network.parameters():
            parameter.data = parameter.data * float("nan")


class NeedsSettings(Rounds):
    def __init__(self, digits: int) -> None:
        self.digits = digits


def test_check_step_passes_a_step_of_a_users_own() -> None:
    check_step(Rounds)
    check_step(NeedsSettings(2))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (GivesOther, "the result is torch, declared is onnx"),
        (TakesNothing, "takes is empty"),
        (TakesUnknown, r"takes has \['tflite'\]; known are torch"),
        (LimitIsAString, "limits is a string"),
        (OtherKind, "kind is 'distil'"),
        (RefusesWhatItGives, "gives torch and says in why_not"),
        (Unsaved, r"artifact\.json was not written"),
        (InPlace, "not in workdir"),
        (Overwrites, "apply changed the files it was given"),
        (ForgetsItself, "the step's own entry"),
        (Unseeded, r"twice with the same seed .* data\.seed"),
        (ChangingAnalysis, "an analysis must leave the model as it is"),
        (Diverges, "infinities or not-a-number"),
        (NeedsSettings, "give an instance with its settings"),
        (Elpv, r"Elpv does not inherit from pqbench\.Step"),
    ],
)
def test_check_step_names_what_is_wrong(step: type[Step], message: str) -> None:
    with pytest.raises(BrokenContract, match=message):
        check_step(step)


# -- backends --------------------------------------------------------------------------------------


class Wrong(OnnxBackend):
    """A good backend but for what its session or its attributes are told to do wrong."""

    def __init__(self, fault: str = "", **attributes: Any) -> None:
        super().__init__()
        self.fault = fault
        for name, value in attributes.items():
            setattr(self, name, value)

    def availability(self) -> Availability:
        if self.fault == "no reason":
            return Availability(False, "cpu", {})
        if self.fault == "absent":
            return Availability(False, "cpu", {}, "no such runtime", "buy one")
        return Availability(True, "cuda:0" if self.fault == "elsewhere" else "cpu", {})

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> Session:
        session = WrongSession(artifact, 1)
        session.fault = self.fault
        if self.fault == "negative":
            session.compile_s = -1.0
        return session if self.fault != "no session" else object()  # type: ignore[return-value]


class WrongSession(OnnxSession):
    fault = ""

    def run(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        [out] = super().run(batch)
        if self.fault == "integers":
            return [(out * 100).astype(np.int32)]
        if self.fault == "one row":
            return [out[:1]]
        if self.fault == "noise":
            return [out + np.random.default_rng().normal(size=out.shape).astype(np.float32)]
        if self.fault == "reversed":
            return [out[:, ::-1]]
        if self.fault == "in place":
            batch["input"][:] = 0
        if self.fault == "two outputs":
            return [out, out]
        return [out]

    def placement(self) -> Placement:
        nodes = {} if self.fault == "nowhere" else {"cpu": 3}
        details = {"session": self} if self.fault == "no JSON" else {}
        return Placement(nodes, "f32", 2, 5 if self.fault == "too many" else 0, details=details)

    def profile(self, batch: Mapping[str, np.ndarray], runs: int) -> Mapping[str, float]:
        return {"Conv": float("nan") if self.fault == "no time" else 1.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Artifact.load(write_onnx_model(tmp_path_factory.mktemp("models") / "onnx"))


def test_check_backend_passes_a_backend_of_a_users_own(model: Artifact) -> None:
    check_backend(Wrong(), model)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no reason", "does not say why"),
        ("elsewhere", "availability.. says cuda:0, device says cpu"),
        ("no session", r"gave object, which does not inherit from pqbench\.Session"),
        ("negative", r"compile_s is -1\.0"),
        ("integers", "output logits is int32, not float"),
        ("one row", r"batch size 3: output logits has shape \(1, 7\), 3 rows wanted"),
        ("noise", "other outputs the second time"),
        ("reversed", "is not what the model computes"),
        ("in place", "wrote into its inputs"),
        ("two outputs", "gave 2 outputs, the model has 1"),
        ("nowhere", "count the nodes by device"),
        ("too many", "integer is 5 of 2"),
        ("no JSON", "details cannot be written as JSON"),
        ("no time", "nan ms for 'Conv'"),
    ],
)
def test_check_backend_names_what_is_wrong(fault: str, message: str, model: Artifact) -> None:
    with pytest.raises(BrokenContract, match=message):
        check_backend(Wrong(fault), model)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"device": "GPU"}, "device is 'GPU'; write cpu"),
        ({"threads": -1}, "threads is -1"),
        ({"loads": ["onnx"]}, "loads is .'onnx'., not a tuple"),
        ({"modules": ("no_such_runtime",)}, "no_such_runtime of modules is not"),
        ({"modules": "onnxruntime"}, "modules is a string"),
    ],
)
def test_check_backend_names_what_is_declared_wrong(
    attributes: dict[str, Any], message: str, model: Artifact
) -> None:
    with pytest.raises(BrokenContract, match=message):
        check_backend(Wrong(**attributes), model)


def test_check_backend_of_one_that_cannot_run_here_says_so(model: Artifact) -> None:
    with pytest.raises(UnavailableError, match=r"no such runtime\. buy one"):
        check_backend(Wrong("absent"), model)


# -- data sets -------------------------------------------------------------------------------------


class Listed(Dataset):
    """Two splits of drawn images, changed by a fault."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.calls = 0

    def index(self) -> DataIndex:
        self.calls += 1
        splits = {name: self._split(name, seed) for seed, name in enumerate(("train", "val"))}
        if self.fault in ("shared", "shared and said"):
            train, val = splits["train"], splits["val"]
            splits["val"] = replace(val, samples=[train.samples[0], *val.samples[1:]])  # type: ignore[index]
        if self.fault == "no train":
            del splits["train"]
        notes = ("one image is in both",) if self.fault == "shared and said" else ()
        classes = ("cat", "cat") if self.fault == "same name" else ("cat", "dog")
        indices = (1, 1) if self.fault == "imagenet" else None
        return DataIndex(classes, splits, notes=notes, imagenet_indices=indices)

    def _split(self, name: str, seed: int) -> Split:
        order = list(range(6))
        if self.fault == "order" and self.calls % 2:
            order.reverse()
        labels = tuple(i % 2 + (self.fault == "label") for i in order)
        files = tuple(Path(name) / str(0 if self.fault == "twice" else i) for i in order)
        if self.fault == "absent":
            return Split(files, labels)
        rng = np.random.default_rng(seed)
        kind = np.float32 if self.fault == "float" else np.uint8
        images = list(rng.integers(0, 256, (6, 8, 8, 3)).astype(kind))
        return Split(files, labels, samples=images, masks=self._masks(images))

    def _masks(self, images: list[Any]) -> list[Any] | None:
        if not self.fault.startswith("mask"):
            return None
        side = 9 if self.fault == "mask size" else 8
        value = 7 if self.fault == "mask value" else 1
        return [np.full((side, side), value, np.uint8) for _ in images]


def test_check_dataset_passes_data_of_a_users_own() -> None:
    for fault in ("", "mask", "shared and said"):
        check_dataset(Listed(fault))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shared", r"1 samples are in 'train' and in 'val', the first: train/0; take them out"),
        ("no train", r"no split 'train', only \['val'\]"),
        ("same name", "two classes have the same name"),
        ("imagenet", "imagenet_indices must be 2 different numbers"),
        ("order", "in another order, the second time"),
        ("label", r"label 2, there are classes 0\.\.1"),
        ("twice", "names 5 files twice"),
        ("absent", "6 files do not exist"),
        ("float", r"is float32 \(8, 8, 3\); uint8"),
        ("mask size", r"has shape \(9, 9\), its image \(8, 8\)"),
        ("mask value", r"holds \[7\], which are neither classes"),
    ],
)
def test_check_dataset_names_what_is_wrong(fault: str, message: str) -> None:
    with pytest.raises(BrokenContract, match=message):
        check_dataset(Listed(fault))


# -- models ----------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.body = nn.Conv2d(3, 5, 3, stride=2)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        if self.fault == "batch":
            return out - out.mean(dim=0)
        return out.unsqueeze(0) if self.fault == "shape" else out


def test_check_model_passes_a_network_of_a_users_own() -> None:
    check_model(Net, "head", (3, 16, 16))


@pytest.mark.parametrize(
    ("arguments", "head", "message"),
    [
        ({"fault": "batch"}, "head", "depends on what else is in the batch"),
        ({"fault": "shape"}, "head", r"give outputs of shape \(1, 3, 4\), the head head says"),
        ({}, "classifier", r"model\.head=classifier does not exist"),
        ({"width": 3}, "head", "cannot build the network .*width"),
    ],
)
def test_check_model_names_what_is_wrong(
    arguments: dict[str, Any], head: str, message: str
) -> None:
    with pytest.raises(BrokenContract, match=message):
        check_model(Net, head, (3, 16, 16), **arguments)
