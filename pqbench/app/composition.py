"""Composing the configurations of a sweep: each once, and what they share once for all.

Hydra composes a job's configuration three times (to check it, to prove the batch, to run it), reads
every YAML file anew each time, and copies the whole store of structured configurations for each
composition and for each group that ``--help`` lists. Here a file is read once, the files of one
choice of options are merged once, and a composed configuration waits as bytes until its job runs:
pickling a configuration takes a tenth of the time of ``copy.deepcopy``.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Sequence
from typing import Any, TypeVar

import omegaconf.base
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import (
    CachingConfigRepository,
    ConfigRepository,
    IConfigRepository,
)
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from pqbench.app.shown import as_given

T = TypeVar("T")


def packed(config: T) -> bytes | None:
    """A configuration, or what holds some, as bytes.

    Returns:
        None where it cannot be pickled: Hydra's scan for plugins runs their files a second time,
        and the classes of a third party's settings are then not those that its module names.
    """
    try:
        return pickle.dumps(config, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None


def copied(config: T) -> T:
    """A deep copy, by the quick way where there is one."""
    data = packed(config)
    if data is None:
        return copy.deepcopy(config)
    found: T = pickle.loads(data)
    return found


def drop_hydra(config: DictConfig) -> DictConfig:
    """An experiment's configuration, from which Hydra's own is taken."""
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config


def share_store() -> None:
    """Have copies of a configuration source share the store that it reads from.

    Hydra copies its sources so that a search path can be added to the copy; the store, which is one
    for the whole process and copies whatever it hands out, is copied with them for nothing.
    """
    store = ConfigStore.instance()
    vars(store)["__deepcopy__"] = lambda memo: store  # noqa: ARG005


def parse_once() -> None:
    """Have OmegaConf parse each interpolation once in a process: its tree follows from its text.

    It parses the same few texts thirty times for every job, by a parser in Python.
    """
    module: Any = omegaconf.base
    if not hasattr(module.parse, "cache_info"):
        module.parse = functools.lru_cache(maxsize=4096)(module.parse)


class FilesOnce(ConfigRepository):
    """A repository that reads each file once; its copies share what was read."""

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Search elsewhere from now on."""
        self.loaded: dict[str, ConfigResult | None] = {}
        super().initialize_sources(config_search_path)

    def load_config(self, config_path: str) -> ConfigResult | None:
        """What a file holds; not to be changed."""
        if config_path not in self.loaded:
            self.loaded[config_path] = super().load_config(config_path)
        return self.loaded[config_path]

    def __deepcopy__(self, memo: dict[int, Any]) -> FilesOnce:
        """A copy that can be led elsewhere by itself."""
        return copy.copy(self)


class SweepLoader(ConfigLoaderImpl):
    """Hydra's loader for the jobs of one sweep.

    Args:
        config_search_path: Hydra's.

    Attributes:
        composed: How many configurations were composed.
        merged: For how many of them the files had to be merged.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = self._once = FilesOnce(config_search_path)
        self.composed = 0
        self.merged = 0
        self._files: dict[tuple[Any, ...], DictConfig | bytes] = {}
        self._bases: dict[tuple[Any, ...], bytes | None] = {}
        self._parsed: dict[str, Override] = {}
        self._waiting: dict[tuple[str, ...], bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Launchers send the loader to their workers; what was composed stays here."""
        return {**self.__dict__, "_files": {}, "_bases": {}, "_parsed": {}, "_waiting": {}}

    def compose(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """A job's configuration, the caller's own; :meth:`load_sweep_config` gives it anew."""
        found = super().load_sweep_config(master_config, list(sweep_overrides))
        data = packed(found)
        if data is not None:  # many whole configurations would fill the memory
            self._waiting[tuple(sweep_overrides)] = data
        return found

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """A job's configuration: the one that was composed to be checked, where there is one."""
        waiting = self._waiting.pop(tuple(sweep_overrides), None)
        if waiting is not None:
            found: DictConfig = pickle.loads(waiting)
            if self._brought_up_to_date(found, master_config):
                return found
        return super().load_sweep_config(master_config, sweep_overrides)

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose: of jobs that choose the same options, only what differs is applied."""
        self.composed += 1
        if run_mode == RunMode.RUN and from_shell and validate_sweep_overrides:
            try:
                found = self._from_base(config_name, overrides)
            except (HydraException, OmegaConfBaseException):
                found = None  # Hydra says below what is wrong
            if found is not None:
                return found
        return super().load_configuration(
            config_name, overrides, run_mode, from_shell, validate_sweep_overrides
        )

    def _from_base(self, config_name: str | None, overrides: list[str]) -> DictConfig | None:
        """The configuration of a job from that of its chosen options; None if it is not so made."""
        parsed = [self._parse(override) for override in overrides]
        fixed = [o for o in parsed if self._is_fixed(o)]
        values = [o for o in parsed if not self._is_fixed(o)]
        if not all(o.type == OverrideType.CHANGE and o.package is None for o in values):
            return None
        key = (config_name, *(o.input_line for o in fixed))
        if key not in self._bases:
            lines = [str(o.input_line) for o in fixed]
            base = super().load_configuration(config_name, lines, RunMode.RUN)
            self._bases[key] = packed(base)
        data = self._bases[key]
        if data is None or any(o.is_sweep_override() for o in values):
            return None
        config: DictConfig = pickle.loads(data)
        self._apply_overrides_to_config(values, config)
        # What Hydra notes of all arguments.
        own = [o for o in parsed if not o.is_hydra_override()]
        config.hydra.overrides.task = [o.input_line for o in own]
        form = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            own, exclude_keys=form.exclude_keys, item_sep=form.item_sep, kv_sep=form.kv_sep
        )
        return config

    def _brought_up_to_date(self, config: DictConfig, master: DictConfig) -> bool:
        """Give a composed job what its sweep was given since: where its folder is, say.

        Returns:
            False if that cannot be added to what is composed.
        """
        known = as_given(config.hydra.overrides.hydra)
        added = [o for o in as_given(master.hydra.overrides.hydra) if o not in known]
        if not all(o.startswith("hydra.") for o in added):
            return False
        self._apply_overrides_to_config([self._parse(o) for o in added], config)
        for override in added:
            config.hydra.overrides.hydra.append(override)
        OmegaConf.copy_cache(from_config=master, to_config=config)  # of the time of day, say
        return True

    def _parse(self, override: str) -> Override:
        if override not in self._parsed:
            self._parsed[override] = OverridesParser.create().parse_overrides([override])[0]
        return self._parsed[override]

    def _is_fixed(self, override: Override) -> bool:
        """Whether it chooses an option or is Hydra's own, not a value of the configuration."""
        return override.is_hydra_override() or self._once.group_exists(override.key_or_group)

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        assert isinstance(repo, CachingConfigRepository)
        given = repo.delegate
        if not isinstance(given, FilesOnce) or given.loaded is not self._once.loaded:
            # an argument of this job's leads elsewhere
            self.merged += 1
            return super()._compose_config_from_defaults_list(defaults, repo)
        key = tuple(tuple(vars(default).values()) for default in defaults)
        if key not in self._files:
            self.merged += 1
            own = CachingConfigRepository(given)
            own.cache = copied(repo.cache)  # merging moves nodes out of them
            merged = super()._compose_config_from_defaults_list(defaults, own)
            data = packed(merged)
            self._files[key] = merged if data is None else data
        kept = self._files[key]
        if isinstance(kept, DictConfig):
            return copy.deepcopy(kept)
        found: DictConfig = pickle.loads(kept)
        return found


def sweep_loader() -> SweepLoader:
    """The loader of the sweep that Hydra is about to run; from now on Hydra uses it as well."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    loader = hydra.config_loader
    if not isinstance(loader, SweepLoader):
        assert isinstance(loader, ConfigLoaderImpl)
        loader = SweepLoader(loader.get_search_path())
        hydra.config_loader = loader
    return loader
