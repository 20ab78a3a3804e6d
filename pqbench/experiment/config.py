"""The typed configuration: every key with its unit and default.

Hydra merges the YAML files of ``conf/`` into these classes, so an unknown key or a wrong type fails
before any work. Nodes of type ``dict[str, Any]`` carry a ``_target_``: the class it names checks
the other keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_method
from omegaconf import MISSING, DictConfig, OmegaConf

from pqbench.core.backend import Backend
from pqbench.core.dataset import Dataset
from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import make
from pqbench.core.step import Step
from pqbench.machine.cpu import cpu_saturates_int8, usable_cores


class Weights(Enum):
    """Where a model's weights come from."""

    auto = "auto"
    bundled = "bundled"
    pretrained = "pretrained"
    file = "file"
    scratch = "scratch"
    none = "none"


TASKS = {
    "classification": "pqbench.experiment.tasks.Classification",
    "segmentation": "pqbench.experiment.tasks.Segmentation",
    "text_classification": "pqbench.experiment.tasks.TextClassification",
}
REPRESENTATIONS = ("torch", "onnx")
LAYOUTS = ("nchw", "nhwc")


class FitMethod(Enum):
    """How a model learns a data set's classes."""

    auto = "auto"
    none = "none"
    linear_probe = "linear_probe"
    finetune = "finetune"
    scratch = "scratch"


class OnError(Enum):
    """What to do with an unreadable image."""

    fail = "fail"
    skip = "skip"


class Retry(Enum):
    """Which finished experiments of a sweep run once more."""

    none = "none"
    failed = "failed"


@dataclass
class PreprocessConfig:
    """How an image becomes an input.

    Attributes:
        resize: Shorter side after resizing, in pixels.
        crop: Side of the centre crop, in pixels; the model's input is (3, crop, crop).
        interpolation: ``bilinear`` or ``bicubic``, with Pillow's antialiasing.
        mean: Per-channel mean on the 0..1 scale.
        std: Per-channel standard deviation on the 0..1 scale.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])


@dataclass
class ModelConfig:
    """A network and where its weights come from.

    Attributes:
        name: Name in tables and records.
        task: ``classification``, ``segmentation``, ``text_classification``, or the dotted path of
            a class of your own (``pqbench.experiment.tasks.Task``).
        network: ``_target_`` that builds the ``nn.Module``, and its arguments.
        head: Dotted name of the layer that gives the class scores; replaced or sliced to the data
            set's classes.
        weights: ``auto``: bundled for this data set, else pretrained if on this machine, else
            trained from scratch where the data set allows it, else pretrained (download).
        weights_file: Path of a state dict (``.safetensors``, ``.pth``) for ``weights=file``.
        pretrained: ``_target_`` that returns the pretrained state dict.
        checkpoint_key: Which state dict of a checkpoint that holds several (``state_dict_ema``);
            null takes the plain one and notes the others.
        preprocess: Resize, crop and normalization, for images.
        tokenizer: ``_target_`` of a tokenizer (``pqbench.data.tokenize``) and its arguments, for
            texts.
        representation: ``torch``, or ``onnx`` for a file of the user's.
        file: Path of that file.
        baseline_file: Path of a second ONNX file of the same network, which the first is compared
            with: the float file of an INT8 one, say.
        input: Name of the ONNX input that takes the prepared images; null finds it.
        output: The output that is scored, where there are several: its name, or of a torch network
            its key or its position (from 0); null finds it by shape and name.
        layout: ``nchw`` or ``nhwc`` of that image input; null tells it from the shape.
    """

    name: str = MISSING
    task: str = "classification"
    network: dict[str, Any] = field(default_factory=dict)
    head: str = ""
    weights: Weights = Weights.auto
    weights_file: str | None = None
    pretrained: dict[str, Any] | None = None
    checkpoint_key: str | None = None
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    tokenizer: dict[str, Any] | None = None
    representation: str = "torch"
    file: str | None = None
    baseline_file: str | None = None
    input: str | None = None
    output: str | None = None
    layout: str | None = None


@dataclass
class DatasetConfig:
    """Labelled images or texts in named splits.

    Attributes:
        name: Name in tables and records.
        task: The task that it has labels for, as in ``ModelConfig``.
        source: ``_target_`` of a class with an ``index()`` method, and its arguments.
        root: Folder with the data; null takes the data set's usual place.
        classes: The class names in the order of the model's outputs, as a list or as the path of a
            text file with one a line; null takes the data set's own order.
        split: Split that is scored: ``val``, or ``clean`` where the data set has it.
        limit: Score at most this many images (a stratified, seeded subset); null takes all.
        train_limit: Use at most this many training images; null takes all.
        on_error: What to do with an unreadable image: ``fail`` or ``skip`` (counted, noted).
        resize_mode: ``crop``: resize the shorter side, crop the centre; ``squash``: resize to the
            crop size, whole picture kept.
        augment: Symmetries of an image that keep its label, used in training: ``none``, ``flip``
            (left-right) or ``dihedral`` (all eight flips and quarter turns).
        scratch: True if a model without other weights may be trained from scratch on it.
        scored: False for made-up inputs: nothing is fitted, accuracy is null.
    """

    name: str = MISSING
    task: str = "classification"
    source: dict[str, Any] = MISSING
    root: str | None = None
    classes: Any = None
    split: str = "val"
    limit: int | None = None
    train_limit: int | None = None
    on_error: OnError = OnError.fail
    resize_mode: str = "crop"
    augment: str = "flip"
    scratch: bool = False
    scored: bool = True


@dataclass
class FitConfig:
    """How a model learns the data set's classes before any compression, if it must.

    Attributes:
        method: ``auto``: nothing for bundled, sliced or loaded weights that fit; ``linear_probe``
            for a pretrained network with a new head; ``scratch`` for random weights.
        epochs: Passes over the train split (``finetune``, ``scratch``).
        batch_size: Images per training step.
        learning_rate: Peak of the AdamW schedule (warm-up, then cosine).
        train_size: Side of the training images in pixels; null takes the model's input size.
        augment: Symmetries used in training; by default the data set's.
        precision: Of products while training: null (float32), ``bf16-mixed`` or ``16-mixed``.
        devices: GPUs that share each batch: a number, or ``auto`` for all.
    """

    method: FitMethod = FitMethod.auto
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 2e-3
    train_size: int | None = 96
    augment: str = "${dataset.augment}"
    precision: str | None = None
    devices: Any = 1


@dataclass
class ProtocolConfig:
    """How latency is measured: see ``pqbench.measure.protocol.Protocol``, which has these keys."""

    name: str = "default"
    batch_sizes: list[int] = field(default_factory=lambda: [1, 16, 32, 64])
    warmup_s: float = 0.5
    warmup_calls: int = 3
    block_s: float = 0.25
    min_pairs: int = 6
    max_pairs: int = 200
    max_seconds: float = 10.0
    processes: int = 1
    target_half_width: float = 0.02
    unstable_half_width: float = 0.05
    max_foreign_share: float = 0.1
    max_disturbed: int = 20
    quiet_wait_s: float = 10.0
    settle_s: float = 0.05
    pool_mb: float = 128.0
    seed: int = 0
    score: bool = True
    profile: bool = False
    stage_timeout_s: float = 1800.0


@dataclass
class TrackingConfig:
    """Where results are logged beside the records on disk.

    Attributes:
        enabled: False keeps records on disk only.
        uri: MLflow tracking URI; null takes an sqlite file under ``outputs``.
        experiment: Name of the MLflow experiment.
        artifact_root: Folder for artifacts of the local store; null takes one under ``outputs``.
        log_model: Log the deployed model's files as artifacts.
        timeout_s: Give up on a tracking server after this many seconds.
        onnx_flavour: Also log a deployed ONNX model with the flavour ``mlflow.onnx``.
        registered_model: Name of that model in MLflow's registry; null does not register it.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "pqbench"
    artifact_root: str | None = None
    log_model: bool = True
    timeout_s: float = 5.0
    onnx_flavour: bool = False
    registered_model: str | None = None


@dataclass
class LimitsConfig:
    """What one experiment may use. The time limit of a stage is ``protocol.stage_timeout_s``.

    Attributes:
        cell_s: Time for one experiment in s, without its baseline; null: no limit.
        memory_mb: Data of each worker process in MiB (Linux); null: no limit. A runtime may reserve
            more than it uses: leave room.
        cache_gb: Size of the cache in GiB; above it goes what was used longest ago. null: no limit.
    """

    cell_s: float | None = None
    memory_mb: float | None = None
    cache_gb: float | None = 50.0


@dataclass
class PqbenchConfig:
    """One experiment.

    Attributes:
        model: The network and its weights.
        dataset: The data that it is fitted on, calibrated with and scored on.
        fit: How the model learns the classes, if it must.
        compress: The recipe: steps by name, in order; empty for a baseline.
        backend: ``_target_`` of the backend, its name and options.
        protocol: How latency is measured.
        tracking: Where results are logged.
        threads: Threads of every runtime alike; by default all usable cores.
        seed: Seeds training, calibration draws and random heads.
        outputs: Folder for runs, cache and the local tracking store.
        cache: Reuse finished stages and records.
        force: Measure again even if a finished record of this experiment exists.
        retry: ``failed``: go back to the newest sweep of this command and run again what has no
            result there.
        limits: What one experiment may use.
    """

    model: ModelConfig = MISSING
    dataset: DatasetConfig = MISSING
    fit: FitConfig = field(default_factory=FitConfig)
    compress: dict[str, Any] = field(default_factory=dict)
    backend: dict[str, Any] = MISSING
    protocol: ProtocolConfig = MISSING
    tracking: TrackingConfig = MISSING
    threads: int = MISSING
    seed: int = 0
    outputs: str = "outputs"
    cache: bool = True
    force: bool = False
    retry: Retry = Retry.none
    limits: LimitsConfig = field(default_factory=LimitsConfig)


IGNORED_BY_FINGERPRINT = ("tracking", "outputs", "cache", "force", "retry", "limits")


def register() -> None:
    """Make the schema and the resolvers known to Hydra; call before composing."""
    store = ConfigStore.instance()
    store.store(name="schema", node=PqbenchConfig)
    OmegaConf.register_new_resolver("usable_cores", usable_cores, replace=True)
    OmegaConf.register_new_resolver("cpu_saturates_int8", cpu_saturates_int8, replace=True)
    # ${call:package.module.function,argument}: what a library knows about a model, say
    OmegaConf.register_new_resolver(
        "call", lambda target, *arguments: get_method(target)(*arguments), replace=True
    )
    OmegaConf.register_new_resolver(
        "recipe", lambda steps: "+".join(steps) or "none", replace=True, use_cache=False
    )


def to_plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as JSON-ready values; enums by name."""

    def plain(value: Any) -> Any:
        if isinstance(value, Enum):
            return value.name
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value

    result: dict[str, Any] = plain(OmegaConf.to_container(config, resolve=True))
    return result


def fingerprint(config: Mapping[str, Any]) -> str:
    """The hash that names an experiment: SHA-256 of its resolved configuration, 16 hex digits.

    Where results are logged and stored does not enter; the order of the recipe's steps does.
    """
    named = {k: v for k, v in config.items() if k not in IGNORED_BY_FINGERPRINT}
    named["compress"] = list(config["compress"].items())
    text = json.dumps(named, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def baseline_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same experiment with the empty recipe."""
    return {**config, "compress": {}}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a configuration with its dotted key."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _validate_model(model: Mapping[str, Any]) -> None:
    """Check that a model says where it comes from, as its representation wants it."""
    given = model["representation"]
    if given not in REPRESENTATIONS:
        raise ConfigError(
            f"model.representation={given} is not possible",
            hint=f"choose from {', '.join(REPRESENTATIONS)}",
        )
    if model["layout"] not in (None, *LAYOUTS):
        raise ConfigError(
            f"model.layout={model['layout']} is not possible",
            hint=f"choose from {', '.join(LAYOUTS)}, or null: told from the shape",
        )
    if given == "onnx":
        if not model["file"]:
            raise ConfigError("model.representation=onnx without a file", "set model.file=PATH")
        return
    for key in ("baseline_file", "input", "layout"):
        if model[key]:
            raise ConfigError(
                f"model.{key} is for an ONNX file of your own", hint="choose model=onnx"
            )
    if model["weights"] == "file" and not model["weights_file"]:
        raise ConfigError("model.weights=file without a file", hint="set model.weights_file=PATH")
    for key in ("network", "head"):
        if not model[key]:
            raise ConfigError(f"model.{key} is not given", hint="see conf/model/custom.yaml")
    if "." not in model["task"] and model["task"] not in TASKS:
        raise ConfigError(
            f"model.task={model['task']} is not known",
            hint=f"choose from {', '.join(TASKS)}, or give the dotted path of a class",
        )


def validate(config: Mapping[str, Any]) -> None:
    """Check what types cannot say, before any work.

    Raises:
        ConfigError: A value cannot be meant; the message names key, value and what is allowed.
    """
    from pqbench.measure.protocol import Protocol

    def require(condition: bool, key: str, value: object, allowed: str) -> None:
        if not condition:
            raise ConfigError(f"{key}={value} is not possible", hint=f"{key} must be {allowed}")

    dataset, model = config["dataset"], config["model"]
    for key in ("limit", "train_limit"):
        value = dataset[key]
        require(value is None or value >= 1, f"dataset.{key}", value, "null or at least 1")
    modes = ("crop", "squash")
    require(
        dataset["resize_mode"] in modes, "dataset.resize_mode", dataset["resize_mode"], str(modes)
    )
    require(config["threads"] >= 1, "threads", config["threads"], "at least 1")
    for key, value in config["limits"].items():
        require(value is None or value > 0, f"limits.{key}", value, "null or above 0")
    for key, value in _leaves(config):
        require(value != MISSING, key, value, "given: it has no default")
    _validate_model(model)
    if model["task"] != dataset["task"]:
        raise ConfigError(
            f"model {model['name']} does {model['task']}, "
            f"data set {dataset['name']} is for {dataset['task']}",
            hint="choose a model and a data set of one task",
        )
    for name, node in config["compress"].items():
        make(node, f"compress.{name}", Step)
    make(config["backend"], "backend", Backend)
    make(
        {"_target_": "pqbench.measure.protocol.Protocol", **config["protocol"]},
        "protocol",
        Protocol,
    )
    make(dataset["source"], "dataset.source", Dataset)
