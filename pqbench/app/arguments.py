"""The command line before Hydra sees it: ``-m`` anywhere, ``--backends``, a default sweep."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pqbench.app.recipe_settings import each_by_job
from pqbench.core.errors import ConfigError
from pqbench.core.paths import check_text

MULTIRUN = ("-m", "--multirun")
_INFO = ("--info", "-i")  # with or without a value
_ALONE = ("--cfg", "-c", "--run", "-r", *_INFO)  # not with -m
_WITH_VALUE = (
    *("--cfg", "-c", "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"),
    *("--experimental-rerun", "--package", "-p"),
)


def config_folder() -> Path:
    """The shipped ``conf``: inside the installed package, or beside it in a checkout.

    Raises:
        ConfigError: Neither is there.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder.resolve()
    raise ConfigError(f"no conf folder beside {package}", hint="install pqbench again")


def prepare(arguments: list[str]) -> list[str]:
    """The arguments as Hydra wants them.

    Options go to the front (between settings Hydra does not understand them). A sweep with nothing
    to sweep over sweeps over the backends that can run here; settings of steps go to the recipes
    that have the step. ``--backends`` prints and exits.
    """
    if not arguments:
        arguments = ["--help"]
    if "--version" in arguments:
        from pqbench import __version__

        print(f"pqbench {__version__}")
        sys.exit(0)
    if "--shell-completion" in arguments and not any(
        a.partition("=")[0] in ("install", "uninstall", "query") for a in arguments
    ):
        raise ConfigError(
            "--shell-completion is not complete",
            hint='type  eval "$(pqbench --shell-completion install=bash)"  (or zsh, fish)',
        )
    check_text(str(Path.cwd()), "the current folder", ConfigError)
    for argument in arguments:
        check_text(argument, error=ConfigError)
    _check_options(arguments)
    register_repeats(arguments)
    if "--backends" in arguments:
        from pqbench.app.backends_here import print_backends

        print_backends(config_folder())
        sys.exit(0)
    arguments = _with_budget(_options_first(arguments))
    if not any(a in MULTIRUN for a in arguments):
        return each_by_job(arguments) if _experiment_sweeps(arguments) else arguments
    rest = [a for a in arguments if a not in MULTIRUN]
    if shows := next((a for a in rest if a.partition("=")[0] in _ALONE), None):
        raise ConfigError(
            f"{shows.partition('=')[0]} is about one experiment, -m about a sweep",
            hint="leave one of them out; --cfg job shows the settings of one experiment",
        )
    if not _sweeps_over_something(rest):
        from pqbench.app.backends_here import available_backends

        rest.append("backend=" + ",".join(available_backends(config_folder())))
    return ["-m", *each_by_job(rest)]


def _experiment_sweeps(arguments: list[str]) -> bool:
    """Whether an experiment file makes a sweep of a command without ``-m``."""
    if any(a.partition("=")[0] in ("--cfg", "-c", "--info", "-i") for a in arguments):
        return False  # nothing runs
    own = [arguments[i + 1] for i, a in enumerate(arguments[:-1]) if a in ("--config-dir", "-cd")]
    own += [a.partition("=")[2] for a in arguments if a.startswith("--config-dir=")]
    for argument in arguments:
        key, _, name = argument.partition("=")
        if key.lstrip("+") != "experiment":
            continue
        folders = (*map(Path, own), config_folder())
        if any(_is_sweep(folder / "experiment" / f"{name}.yaml") for folder in folders):
            return True
    return False


def _is_sweep(path: Path) -> bool:
    """Whether a YAML file sets ``hydra.mode: MULTIRUN``; Hydra says what is wrong with it."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    hydra = content.get("hydra") if isinstance(content, dict) else None
    return isinstance(hydra, dict) and str(hydra.get("mode")).endswith("MULTIRUN")


def _with_budget(arguments: list[str]) -> list[str]:
    """``budget=30m`` beside ``search=best`` as Hydra knows it; that search is a sweep by itself."""
    if "search=best" not in arguments:
        return arguments
    found = [
        f"hydra.sweeper.{argument}" if argument.startswith("budget=") else argument
        for argument in arguments
    ]
    return found if any(a in MULTIRUN for a in found) else ["-m", *found]


def _check_options(arguments: list[str]) -> None:
    """Refuse an option that nobody knows.

    Raises:
        UnknownKeyError: The message names the one that is meant.
    """
    from hydra._internal.utils import get_args_parser

    from pqbench.app.words import UnknownKeyError, unknown_option

    known = [*get_args_parser()._option_string_actions, "--backends"]
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and len(name) > 2 and name not in known:
            raise UnknownKeyError(unknown_option(argument, known))


def _options_first(arguments: list[str]) -> list[str]:
    options: list[str] = []
    settings: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_value = before in _WITH_VALUE or (before in _INFO and "=" not in argument)
        (options if argument.startswith("-") or is_value else settings).append(argument)
    return [*options, *settings]


def register_repeats(arguments: list[str]) -> list[str]:
    """Make ``finetune_2`` a choice of ``compress`` wherever it is named: ``finetune`` once more.

    Hydra takes each file once. A number after a step's name therefore stands for a file that is
    composed from the step's under that name, whose settings can differ:
    ``compress='[finetune,prune,finetune_2]' compress.finetune_2.epochs=5``. Named in an argument
    or in an experiment's file.

    Returns:
        The names that were registered.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig, OmegaConf

    folders = [config_folder(), *_own_folders(arguments)]
    text = " ".join(arguments)
    for name in re.findall(r"experiment=([\w,/-]+)", text):
        for folder in folders:
            for file in (folder / "experiment" / f"{part}.yaml" for part in name.split(",")):
                text += file.read_text(encoding="utf-8") if file.is_file() else ""
    made = []
    for name, step, number in sorted(set(re.findall(r"\b((\w+?)_([1-9]\d*))\b", text))):
        files = [folder / "compress" / f"{step}.yaml" for folder in folders]
        own = [folder / "compress" / f"{name}.yaml" for folder in folders]
        found = [file for file in files if file.is_file()]
        if not found or any(file.is_file() for file in own) or int(number) < 2:
            continue
        loaded = OmegaConf.load(found[-1])
        assert isinstance(loaded, DictConfig)
        package, node = f"compress.{name}", {"defaults": [f"{step}@_here_"]}
        if list(loaded) == [step]:  # a file of the package compress, with the step's name as a key
            package, node = "compress", {name: loaded[step]}
        ConfigStore.instance().store(
            name=name, node=node, group="compress", package=package, provider="pqbench"
        )
        made.append(name)
    return made


def _own_folders(arguments: list[str]) -> list[Path]:
    """The folder of ``--config-dir``, if given."""
    for i, argument in enumerate(arguments):
        for flag in ("--config-dir", "-cd"):
            if argument == flag and i + 1 < len(arguments):
                return [Path(arguments[i + 1])]
            if argument.startswith(f"{flag}="):
                return [Path(argument.removeprefix(f"{flag}="))]
    return []


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
