"""The configuration as it may be written: no passwords, and the environment's values as references.

``tracking.uri=${oc.env:MLFLOW_URI}`` is resolved to be used and written as it was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from pqbench.core.files import write_text
from pqbench.core.secrets import mask, mask_text

Place = tuple[Any, ...]


def shown_config(config: DictConfig, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The plain configuration with every value that the environment gave put back to its reference.

    Args:
        config: The composed configuration.
        plain: What :func:`pqbench.experiment.config.to_plain` made of it.

    Returns:
        A copy of ``plain``. Where resolving a value, directly or through others, asked for an
        environment variable, it holds the unresolved text; addresses are masked.
    """
    shown: dict[str, Any] = mask(plain)
    with _watched() as asked:
        for place, raw in _interpolations(config):
            del asked[:]
            try:
                found = OmegaConf.select(config, _dotted(place))
                if isinstance(found, Container):
                    OmegaConf.to_container(found, resolve=True)
            except OmegaConfBaseException:
                continue
            if asked:
                _put(shown, place, mask_text(raw))
    return shown


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Environment variables that are asked for meanwhile, by resolvers."""
    asked: list[str] = []

    def env(key: str, *default: Any) -> Any:
        asked.append(key)
        return oc.env(key, *default)

    OmegaConf.register_new_resolver("oc.env", env, replace=True)
    try:
        yield asked
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _interpolations(node: Any, place: Place = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Every interpolation below a node, as written, with its place; those of a node it leads to."""
    if not isinstance(node, Container) or node._is_none() or node._is_missing():
        return
    keys: Any = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for key in keys:
        child: Any = node._get_node(key)
        if child is None:
            continue
        if child._is_interpolation():
            yield (*place, key), str(child._value())
        elif isinstance(child, Container):
            yield from _interpolations(child, (*place, key))


def _dotted(place: Place) -> str:
    return "".join(f"[{key}]" for key in place)


def _put(tree: Any, place: Place, text: str) -> None:
    for key in place[:-1]:
        tree = tree[key]
    tree[place[-1]] = text


def as_given(overrides: Any) -> list[str]:
    """Arguments as they were typed: a reference to the environment stays one."""
    given: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(override) for override in given]


def scrub(*files: Path) -> None:
    """Mask addresses in files that Hydra has written, beside what it resolved itself.

    Raises:
        OSError: A file cannot be written.
    """
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        clean = mask_text(text)
        if clean != text:
            write_text(file, clean)


def scrub_folder(folder: Path) -> None:
    """The same for all that Hydra writes about a job or sweep in its folder."""
    scrub(*sorted((folder / ".hydra").glob("*.yaml")), folder / "multirun.yaml")
