"""Settings of steps in a sweep over recipes: each applies where its step is.

``compress='none,[prune,finetune]' compress.finetune.epochs=5 -m`` means five epochs in the recipes
that fine-tune. Hydra would refuse the others, which have no such step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from pqbench.core.errors import ConfigError

_SETTING = re.compile(r"^\+{0,2}compress\.(\w+)\.")


def step_of(override: str) -> str | None:
    """The step whose setting an override is; None for any other override."""
    found = _SETTING.match(override)
    return found.group(1) if found else None


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def each_by_job(arguments: Sequence[str]) -> list[str]:
    """The arguments of a sweep with every setting of a step as a choice of one.

    Hydra applies what is not swept over before there are jobs, to the recipe of the defaults.
    """
    if any(a.startswith("hydra/sweeper=") for a in arguments):
        return list(arguments)  # those choose in their own way
    return [_choice(a) if step_of(a) and "=" in a else a for a in arguments]


def _choice(argument: str) -> str:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        parsed = OverridesParser.create().parse_overrides([argument])[0]
    except OverrideParseException:
        return argument  # Hydra says what is wrong with it
    if parsed.is_sweep_override():
        return argument
    key, _, value = argument.partition("=")
    return f"{key}=choice({value})"


class Fitting:
    """Leaves settings of steps out of choices whose recipe has no such step, for searches.

    Args:
        steps_of: The steps in the recipe of some overrides without settings of steps.
    """

    def __init__(self, steps_of: Callable[[list[str]], set[str]]) -> None:
        self.steps_of = steps_of
        self.known: dict[tuple[str, ...], set[str]] = {}

    def fitted(self, overrides: Sequence[str]) -> list[str]:
        """The overrides without settings of steps that their recipe has not."""
        rest = tuple(o for o in overrides if step_of(o) is None)
        if len(rest) == len(overrides):
            return list(overrides)
        if rest not in self.known:
            self.known[rest] = self.steps_of(list(rest))
        steps = self.known[rest]
        return [o for o in overrides if (step := step_of(o)) is None or step in steps]


def fit_to_recipes(
    jobs: Sequence[Sequence[str]],
    steps_of: Callable[[list[str]], set[str]],
    typed: Sequence[str],
    options: Collection[str],
) -> list[list[str]]:
    """The jobs of a sweep, each without the settings of steps that its recipe has not.

    Jobs that are alike without them become one.

    Args:
        jobs: The overrides of each job.
        steps_of: The steps in the recipe of some overrides without settings of steps.
        typed: The user's own arguments; other overrides are an experiment's, whose recipes may be
            replaced by others without its steps.
        options: The steps that there are.

    Raises:
        ConfigError: No recipe of the sweep has the step of a setting that was typed, or an
            experiment sets a step that does not exist.
    """
    asked = {_key(argument) for argument in typed}
    if not any(step_of(override) for job in jobs for override in job):
        return [list(job) for job in jobs]
    recipes: dict[tuple[str, ...], set[str]] = {}
    fitted: dict[tuple[str, ...], None] = {}
    used: set[str] = set()
    for job in jobs:
        rest = tuple(override for override in job if step_of(override) is None)
        if rest not in recipes:
            recipes[rest] = steps_of(list(rest))
        steps = recipes[rest]
        used |= steps
        fitted[tuple(o for o in job if (step := step_of(o)) is None or step in steps)] = None
    for job in jobs:
        for override in job:
            step = step_of(override)
            if step is None or step in used:
                continue
            if _key(override) in asked or step not in options:
                raise ConfigError(
                    f"{override}: no recipe of the sweep has a step '{step}'",
                    hint=f"the steps are: {', '.join(sorted(used)) or 'none'}",
                )
    return [list(job) for job in fitted]
