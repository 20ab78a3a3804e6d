"""The space of a search in Hydra's words, and who chooses in it: distributions and samplers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

SAMPLERS = ("nsga2", "tpe", "random", "grid")


def search_space(
    params: Mapping[str, str], arguments: Sequence[str]
) -> tuple[list[str], dict[str, BaseDistribution]]:
    """What is fixed and what is to be chosen; an argument takes the place of a param.

    Returns:
        Fixed overrides, and Optuna's distributions by key.

    Raises:
        ConfigError: An override cannot be parsed, or has no meaning in a search.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    texts = [*(f"{key}={value}" for key, value in params.items()), *arguments]
    try:
        parsed = OverridesParser.create().parse_overrides(texts)
    except OverrideParseException as error:
        raise ConfigError(f"the search space cannot be read: {error}") from error
    fixed: dict[str, str] = {}
    space: dict[str, BaseDistribution] = {}
    for override in parsed:
        key = override.get_key_element()
        fixed.pop(key, None)
        space.pop(key, None)
        if override.is_sweep_override():
            space[key] = _distribution(override)
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    return list(fixed.values()), space


def _distribution(override: Any) -> BaseDistribution:
    from hydra.core.override_parser.types import Glob, IntervalSweep
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        log_scale = "log" in value.tags
        start: Any = value.start
        end: Any = value.end
        if isinstance(start, int) and isinstance(end, int):
            return IntDistribution(start, end, log=log_scale)
        return FloatDistribution(float(start), float(end), log=log_scale)
    if isinstance(value, Glob):
        raise ConfigError(
            f"{override.input_line}: glob() has no meaning in a search", "use choice()"
        )
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def grid(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Every point of a space, the last key changing fastest.

    Raises:
        ConfigError: A key has no list of values.
    """
    from optuna.distributions import CategoricalDistribution

    choices = []
    for key, distribution in space.items():
        if not isinstance(distribution, CategoricalDistribution):
            raise ConfigError(f"a grid over {key}, an interval", hint="use choice() or range()")
        choices.append(distribution.choices)
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*choices)]


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Optuna's sampler of a name; a grid is queued in the study, its sampler is not asked."""
    from optuna import samplers

    if name in ("random", "grid"):
        return samplers.RandomSampler(seed=seed)
    if name == "tpe":
        return samplers.TPESampler(seed=seed)
    return samplers.NSGAIISampler(seed=seed, population_size=10)
