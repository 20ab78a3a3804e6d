"""What a model's configuration says: a network and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import MISSING
from pqbench.core.preprocess import PreprocessSettings

NO_TASK = "none"  # model.task: any inputs and outputs, timed and compared, not scored


class WeightsSource(StrEnum):
    """Where a model's weights come from."""

    auto = "auto"
    bundled = "bundled"
    pretrained = "pretrained"
    file = "file"
    scratch = "scratch"
    none = "none"


class GivenAs(StrEnum):
    """Representation in which a model is given."""

    torch = "torch"
    onnx = "onnx"


class Layout(StrEnum):
    """Order of an image input's axes."""

    nchw = "nchw"
    nhwc = "nhwc"


@dataclass
class ModelSettings:
    """A network and where its weights come from.

    Attributes:
        name: Name in tables and records.
        task: ``classification``, ``segmentation``, ``text_classification``, ``none`` (an ONNX file
            of any kind: latency and outputs only), or the dotted path of a class of your own
            (``pqbench.core.task.Task``).
        network: ``_target_`` that builds the ``nn.Module``, and its arguments.
        head: Dotted name of the layer that gives the class scores; replaced or sliced to the data
            set's classes.
        weights: ``auto``: bundled for this data set, else pretrained if on this machine, else
            trained from scratch where the data set allows it, else pretrained (download).
        weights_file: Path of a state dict (``.safetensors``, ``.pth``) for ``weights=file``.
        pretrained: ``_target_`` that returns the pretrained state dict.
        checkpoint_key: Which state dict of a checkpoint that holds several (``state_dict_ema``);
            null takes the plain one and notes the others.
        preprocess: Resize, crop and normalization; null for a model that is not fed images.
        tokenizer: ``_target_`` of a tokenizer (``pqbench.data.tokenize``) and its arguments; null
            for a model that is not fed texts.
        representation: ``torch``, or ``onnx`` for a file of the user's.
        file: Path of that file.
        baseline_file: Path of a second ONNX file of the same network, which the first is compared
            with: the float file of an INT8 one, say.
        input: Name of the ONNX input that takes the prepared images; null finds it.
        output: The output that is scored, where there are several: its name, or of a torch network
            its key or its position (from 0); null finds it by shape and name.
        constants: What further ONNX inputs are fed, the same for every sample: numbers or lists by
            the input's name. They become part of the model that is measured.
        layout: ``nchw`` or ``nhwc`` of that image input; null tells it from the shape.

    Raises:
        ConfigError: A value is missing that the others ask for.
    """

    name: str = MISSING
    task: str = "classification"
    network: dict[str, Any] = field(default_factory=dict)
    head: str = ""
    weights: WeightsSource = WeightsSource.auto
    weights_file: str | None = None
    pretrained: dict[str, Any] | None = None
    checkpoint_key: str | None = None
    preprocess: PreprocessSettings | None = None
    tokenizer: dict[str, Any] | None = None
    representation: GivenAs = GivenAs.torch
    file: str | None = None
    baseline_file: str | None = None
    input: str | None = None
    output: str | None = None
    layout: Layout | None = None
    constants: Any = None  # a dict; Hydra adds no keys to a typed one on the command line

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild from ``dataclasses.asdict``, for the process that prepares the model."""
        given = dict(value)
        preprocess = given.pop("preprocess", None)
        made = None if preprocess is None else PreprocessSettings(**preprocess)
        return cls(**given, preprocess=made)

    def onnx_file(self) -> dict[str, Any] | None:
        """What decides how samples are fed to a model given as ONNX; None for others."""
        if self.representation != GivenAs.onnx:
            return None
        given = {"file": self.file, "input": self.input, "layout": self.layout}
        return {**given, "constants": sorted(self.constants or {})}

    def check(self) -> None:
        """Check that the model says where it comes from, as its representation wants it.

        Raises:
            ConfigError: It does not.
        """
        if self.representation == GivenAs.onnx:
            if not self.file:
                raise ConfigError("model.representation=onnx without a file", "set model.file=PATH")
            if self.constants is not None and not isinstance(self.constants, Mapping):
                raise ConfigError(
                    f"model.constants={self.constants} is no mapping",
                    hint="name the inputs: 'model.constants={keep_prob: 1.0}'",
                )
            return
        for key in ("baseline_file", "input", "layout", "constants"):
            if getattr(self, key):
                raise ConfigError(
                    f"model.{key} is for an ONNX file of your own", hint="choose model=onnx"
                )
        if self.weights == WeightsSource.file and not self.weights_file:
            raise ConfigError(
                "model.weights=file without a file", hint="set model.weights_file=PATH"
            )
        for key, value in (("network", self.network), ("head", self.head)):
            if not value:
                raise ConfigError(f"model.{key} is not given", hint="see conf/model/custom.yaml")
