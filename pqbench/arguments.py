"""The command line before Hydra sees it: ``-m`` anywhere, ``--backends``, a default sweep."""

from __future__ import annotations

import sys
from pathlib import Path

from pqbench.errors import ConfigError

MULTIRUN = ("-m", "--multirun")


def config_folder() -> Path:
    """The shipped ``conf``: inside the installed package, or beside it in a checkout.

    Raises:
        ConfigError: Neither is there.
    """
    package = Path(__file__).parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    raise ConfigError(f"no conf folder beside {package}", hint="install pqbench again")


def prepare(arguments: list[str]) -> list[str]:
    """The arguments as Hydra wants them.

    ``-m`` goes to the front (in the middle Hydra does not understand it). A sweep with nothing to
    sweep over sweeps over the backends that can run here. ``--backends`` prints and exits.
    """
    if "--backends" in arguments:
        from pqbench.availability import print_backends

        print_backends(config_folder())
        sys.exit(0)
    if not any(a in MULTIRUN for a in arguments):
        return arguments
    rest = [a for a in arguments if a not in MULTIRUN]
    if not _sweeps_over_something(rest):
        from pqbench.availability import available_backends

        rest.append("backend=" + ",".join(available_backends(config_folder())))
    return ["-m", *rest]


def _sweeps_over_something(arguments: list[str]) -> bool:
    """Whether an override is a sweep, a backend is named, or an experiment file may say it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    overrides = [a for a in arguments if "=" in a and not a.startswith("--")]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException:
        return True  # Hydra says what is wrong with it
    return any(
        o.is_sweep_override() or o.key_or_group in ("backend", "experiment", "search")
        for o in parsed
    )
