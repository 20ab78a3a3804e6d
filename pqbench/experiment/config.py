"""The typed configuration of one experiment: every key with its unit and default.

Hydra merges the YAML files of ``conf/`` into these classes, so an unknown key or a wrong type fails
before any work; :func:`read` makes the objects, whose own checks run then. The packages own their
settings; what concerns the whole experiment is here. Nodes of type ``dict[str, Any]`` carry a
``_target_``: the class it names checks the other keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import MISSING, make
from pqbench.core.margins import Margins
from pqbench.core.paths import check_text
from pqbench.core.preprocess import PreprocessSettings
from pqbench.data.settings import DatasetSettings
from pqbench.machine.cpu import cpu_saturates_int8, thread_counts, usable_cores
from pqbench.measure.protocol import MeasureProtocol
from pqbench.models.settings import NO_TASK, GivenAs, ModelSettings
from pqbench.tracking.settings import TrackingSettings
from pqbench.training.settings import FitSettings


class Retry(StrEnum):
    """Which finished experiments of a sweep run once more."""

    none = "none"
    failed = "failed"


@dataclass
class LimitSettings:
    """What one experiment may use. The time limit of a stage is ``protocol.stage_timeout_s``.

    Attributes:
        cell_s: Time for one experiment in s, without its baseline; null: no limit.
        memory_mb: Data of each worker process in MiB (Linux); null: no limit. A runtime may reserve
            more than it uses: leave room.
        cache_gb: Size of the cache in GiB; above it goes what was used longest ago. null: no limit.

    Raises:
        ConfigError: A limit is not above 0.
    """

    cell_s: float | None = None
    memory_mb: float | None = None
    cache_gb: float | None = 50.0

    def __post_init__(self) -> None:
        for key in fields(self):
            value = getattr(self, key.name)
            if value is not None and not value > 0:
                raise ConfigError(
                    f"limits.{key.name}={value} is not possible",
                    hint=f"limits.{key.name} must be null or above 0",
                )


@dataclass
class ExperimentConfig:
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
        claim: The question: what may be lost, what must be gained, how sure.

    Raises:
        ConfigError: ``threads`` is below 1.
    """

    model: ModelSettings = MISSING
    dataset: DatasetSettings = MISSING
    fit: FitSettings = field(default_factory=FitSettings)
    compress: dict[str, Any] = field(default_factory=dict)
    backend: dict[str, Any] = MISSING
    protocol: MeasureProtocol = MISSING
    tracking: TrackingSettings = MISSING
    threads: int = MISSING
    seed: int = 0
    outputs: str = "outputs"
    cache: bool = True
    force: bool = False
    retry: Retry = Retry.none
    limits: LimitSettings = field(default_factory=LimitSettings)
    claim: Margins = field(default_factory=Margins)

    def __post_init__(self) -> None:
        if isinstance(self.threads, int) and self.threads < 1:
            raise ConfigError(
                f"threads={self.threads} is not possible", hint="threads must be at least 1"
            )

    @property
    def backend_name(self) -> str:
        """Name of the backend in tables and records."""
        return str(self.backend.get("name"))

    @property
    def recipe_name(self) -> str:
        """The recipe as one word: ``none`` or ``prune+finetune+ort_int8``."""
        return "+".join(self.recipe) or "none"

    @property
    def title(self) -> str:
        """``model · recipe · backend``, as in tables."""
        return f"{self.model.name} · {self.recipe_name} · {self.backend_name}"

    def baseline(self) -> ExperimentConfig:
        """The same experiment with the empty recipe, or with ``model.baseline_file``."""
        other = self.model.baseline_file
        if other is None:
            return replace(self, compress={})
        model = replace(self.model, file=other, baseline_file=None)
        return replace(self, compress={}, model=model)

    @property
    def has_baseline(self) -> bool:
        """Whether it is compared with another experiment."""
        return bool(self.compress) or self.model.baseline_file is not None

    @property
    def recipe(self) -> list[str]:
        """The steps' names; a file that is compared with another begins with its own name."""
        given = self.model.file if self.model.baseline_file else None
        return [*([Path(given).stem] if given else []), *self.compress]


IGNORED_BY_FINGERPRINT = ("tracking", "outputs", "cache", "force", "retry", "limits", "claim")
# Of a model, what one of another kind has not: absent, not null, so that it decides nothing.
_OF_SOME_MODELS = ("preprocess", "tokenizer")


def register() -> None:
    """Make the schema and the resolvers known to Hydra; call before composing."""
    store = ConfigStore.instance()
    store.store(name="schema", node=ExperimentConfig)
    OmegaConf.register_new_resolver("usable_cores", usable_cores, replace=True)
    OmegaConf.register_new_resolver("cpu_saturates_int8", cpu_saturates_int8, replace=True)
    OmegaConf.register_new_resolver("thread_counts", thread_counts, replace=True)
    # ${call:package.module.function,argument}: what a library knows about a model, say
    OmegaConf.register_new_resolver(
        "call", lambda target, *arguments: get_method(target)(*arguments), replace=True
    )
    OmegaConf.register_new_resolver(
        "recipe", lambda steps: "+".join(steps) or "none", replace=True, use_cache=False
    )


def read(config: DictConfig) -> ExperimentConfig:
    """The composed configuration as objects; their own checks run here.

    An image task's model that says nothing of preprocessing gets the usual one of ImageNet models.

    Raises:
        ConfigError: A value is missing, or invalid; the message names the key.
    """
    try:
        made = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        key = error.full_key or error.key
        raise ConfigError(f"{key} is not given", hint="it has no default") from error
    except InterpolationResolutionError as error:
        if isinstance(error.__cause__, ConfigError):  # of a resolver of ours: what was wrong
            raise error.__cause__ from error
        raise
    assert isinstance(made, ExperimentConfig)  # what the schema of `conf/config.yaml` says
    for text in _texts(to_plain(made)):
        check_text(text, error=ConfigError)
    _settle_task(made)
    if made.model.preprocess is None and made.model.task in ("classification", "segmentation"):
        made.model.preprocess = PreprocessSettings()
    return made


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (str(key), *_texts(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _settle_task(config: ExperimentConfig) -> None:
    """An ONNX file on inputs without labels has no task: whatever it computes, it is timed."""
    model, dataset = config.model, config.dataset
    of_images = model.task in ("classification", "segmentation")
    if model.representation == GivenAs.onnx and of_images and not dataset.scored:
        model.task = NO_TASK
    if model.task == NO_TASK:
        dataset.task = NO_TASK


def from_plain(value: Mapping[str, Any]) -> ExperimentConfig:
    """Rebuild from :func:`to_plain`, such as the configuration in a record.

    Raises:
        ConfigError: A key or value that this version does not know, or an invalid value.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(ExperimentConfig), dict(value))
    except OmegaConfBaseException as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"not a configuration of this version: {first}") from error
    assert isinstance(merged, DictConfig)
    return read(merged)


def to_plain(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as JSON-ready values; what a model of this kind has not is absent."""
    value: dict[str, Any] = {name: _plain(v) for name, v in asdict(config).items()}
    absent = [k for k in _OF_SOME_MODELS if getattr(config.model, k) is None]
    value.update(model={k: _plain(v) for k, v in asdict(config.model).items() if k not in absent})
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def fingerprint(plain: Mapping[str, Any]) -> str:
    """The hash that names an experiment: SHA-256 of its configuration, 16 hex digits.

    Where results are logged and stored does not enter; the order of the recipe's steps does.

    Args:
        plain: :func:`to_plain` of the configuration, or the one in a record.
    """
    named = {
        k: list(v.items()) if k == "compress" else v
        for k, v in plain.items()
        if k not in IGNORED_BY_FINGERPRINT
    }
    text = json.dumps(named, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a configuration with its dotted key."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def validate(config: ExperimentConfig) -> None:
    """Check what types and the objects' own checks cannot say, before any work.

    Raises:
        ConfigError: A value is invalid; the message names key, value and what is allowed.
    """
    from pqbench.core.backend import Backend
    from pqbench.core.dataset import Dataset
    from pqbench.core.step import Step
    from pqbench.experiment.tasks import get_task  # NumPy comes with all, --help needs none

    for key, value in _leaves(to_plain(config)):
        if value == MISSING:
            raise ConfigError(f"{key} is not given", hint="it has no default")
    dataset, model = config.dataset, config.model
    model.check()
    get_task(model.task)
    if model.task != dataset.task:
        raise ConfigError(
            f"model {model.name} does {model.task}, data set {dataset.name} is for {dataset.task}",
            hint="choose a model and a data set of one task",
        )
    for name, node in config.compress.items():
        make(node, f"compress.{name}", Step)
    make(config.backend, "backend", Backend)
    make(dataset.source, "dataset.source", Dataset)
