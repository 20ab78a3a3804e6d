"""timm's models by name: their weights, head and preprocessing, as timm's own metadata say.

https://huggingface.co/docs/timm. ``conf/model/timm.yaml`` asks these while it is composed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import ConfigError, UnavailableError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor


def _config(model_name: str) -> Any:
    """Timm's ``PretrainedCfg`` of a model.

    Raises:
        ConfigError: timm knows no such model.
        UnavailableError: timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise UnavailableError(
            "model=timm needs the package timm", hint="pip install 'pqbench[models]'"
        ) from error
    architecture = model_name.partition(".")[0]
    config = (
        timm.models.get_pretrained_cfg(model_name, allow_unregistered=False)
        if (timm.models.is_model(architecture))
        else None
    )
    if config is None:
        near = timm.list_models(f"*{architecture[:8]}*")[:3]
        raise ConfigError(
            f"timm {timm.__version__} has no model '{model_name}'",
            hint=f"see timm.list_models(){'; near: ' + ', '.join(near) if near else ''}",
        )
    return config


def head(model_name: str) -> str:
    """Dotted name of the layer that gives the class scores."""
    classifier = _config(model_name).classifier
    if not isinstance(classifier, str):
        raise ConfigError(
            f"timm model '{model_name}' has {len(classifier or ())} classifiers, not one",
            hint="set model.head to the layer that gives the class scores",
        )
    return classifier


def preprocess(model_name: str, key: str) -> Any:
    """One of the sizes, interpolation and normalisation that the weights were made for.

    Args:
        model_name: A model of timm.
        key: A key of ``pqbench.experiment.config.PreprocessConfig``. As in timm's own
            transform, ``resize`` is ``crop / crop_pct``.
    """
    config = _config(model_name)
    crop = int(config.input_size[-1])
    known: dict[str, Any] = {
        "resize": int(crop / config.crop_pct),
        "crop": crop,
        "interpolation": config.interpolation,
        "mean": list(config.mean),
        "std": list(config.std),
    }
    return known[key]


def timm_weights(model_name: str) -> Mapping[str, Tensor]:
    """The state dict of timm's pretrained weights, from its cache or downloaded by timm.

    Raises:
        ConfigError: timm knows no such model.
        UnavailableError: timm is not installed.
        WeightsError: There are no weights, or they cannot be had.
    """
    import timm

    _config(model_name)
    try:
        network = timm.create_model(model_name, pretrained=True)
    except (OSError, RuntimeError) as error:  # requests' and the hub's errors are OSErrors
        first = str(error).strip().splitlines()[0][:300] if str(error) else type(error).__name__
        raise WeightsError(
            f"timm cannot get the weights of '{model_name}': {first}",
            hint="offline, use model.weights=file model.weights_file=PATH, or model.weights=none",
        ) from error
    state: Mapping[str, Tensor] = network.state_dict()
    return state
