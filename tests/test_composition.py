"""A sweep composes each job once, reads each file once, and gets what Hydra itself composes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import omegaconf.base
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydra_plugins import pqbench_search
from pqbench.app import backends_here, job
from pqbench.app.arguments import config_folder, register_repeats
from pqbench.app.callbacks import check_combinations
from pqbench.app.composition import SweepLoader, parse_once, share_store, sweep_loader
from pqbench.app.recipe_settings import each_by_job
from pqbench.core.errors import ConfigError

JOBS = [
    ["model=resnet18", f"compress={compress}", f"seed={seed}", "backend=ort"]
    for compress in ("none", "[prune,ort_int8]")
    for seed in (0, 1)
]
SWEEP = ["model=resnet18", "compress=none,[prune,ort_int8]", "seed=0,1", "backend=ort"]


@pytest.fixture
def hydra() -> Iterator[Hydra]:
    state = copy.copy(Singleton.get_state())
    assert callable(job.run)  # importing it makes the schema known
    pqbench_search.register()
    GlobalHydra.instance().clear()
    yield Hydra.create_main_hydra2("pqbench", create_config_search_path(str(config_folder())))
    GlobalHydra.instance().clear()
    Singleton.set_state(state)


def composed(hydra: Hydra, *overrides: str) -> DictConfig:
    return hydra.compose_config(
        "config", list(overrides), RunMode.MULTIRUN, with_log_configuration=False
    )


def as_text(config: DictConfig) -> str:
    return OmegaConf.to_yaml(config, resolve=False)


@pytest.mark.parametrize(
    ("name", "recipes", "expected"),
    [
        ("pruning_curves", "none,ort_int8", 2),
        ("pruning_curves", "[prune,finetune]", 25),
        ("pruning_curves", "[prune,distill]", 25),
        ("iterative_prune", "[prune,finetune]", 1),
        ("iterative_prune", "none,[prune,finetune,prune_2,finetune_2]", 2),
    ],
)
def test_experiments_recipes_can_be_replaced(
    hydra: Hydra, name: str, recipes: str, expected: int
) -> None:
    """Its settings of steps go with the steps: as docs/pruning.md asks for what stands beside."""
    arguments = [f"experiment={name}", f"compress={recipes}"]
    register_repeats(arguments)  # as the command does before Hydra composes
    assert check_combinations(composed(hydra, *each_by_job(arguments))) == expected


def test_each_job_is_composed_once_and_as_hydra_composes_it(hydra: Hydra) -> None:
    master = composed(hydra, *SWEEP)
    plain = hydra.config_loader
    assert isinstance(plain, ConfigLoaderImpl)
    assert check_combinations(master) == len(JOBS)
    loader = hydra.config_loader
    assert isinstance(loader, SweepLoader)
    assert (loader.composed, loader.merged) == (4, 2)
    master.hydra.sweep.dir = "elsewhere/sweep_2"  # where a sweep goes is known after the check
    master.hydra.overrides.hydra.append("hydra.sweep.dir='elsewhere/sweep_2'")
    for overrides in JOBS:
        ours = loader.load_sweep_config(master, list(overrides))
        theirs = plain.load_sweep_config(master, list(overrides))
        assert as_text(ours) == as_text(theirs)
        assert ours.hydra.sweep.dir == "elsewhere/sweep_2"
        assert OmegaConf.is_struct(ours) == OmegaConf.is_struct(theirs)
        assert OmegaConf.get_cache(ours) == OmegaConf.get_cache(theirs)
        assert ours._metadata.object_type is theirs._metadata.object_type
    assert loader.composed == len(JOBS)


def test_job_that_was_not_checked_before_is_composed_from_the_same_files(hydra: Hydra) -> None:
    master = composed(hydra, *SWEEP)
    plain, loader = hydra.config_loader, sweep_loader()
    assert sweep_loader() is loader
    for seed in range(3):
        overrides = ["model=resnet18", "compress=prune", f"seed={seed}"]
        ours = loader.load_sweep_config(master, overrides)
        assert as_text(ours) == as_text(plain.load_sweep_config(master, overrides))
    assert (loader.composed, loader.merged) == (3, 1)


def test_a_job_changes_nothing_of_the_next(hydra: Hydra) -> None:
    master, loader = composed(hydra, *SWEEP), sweep_loader()
    first = loader.load_sweep_config(master, JOBS[0])
    text = as_text(first)
    first.model.name = "changed"
    first.hydra.sweep.dir = "changed"
    assert as_text(loader.load_sweep_config(master, JOBS[0])) == text


def test_invalid_job_is_refused_when_it_is_checked(hydra: Hydra) -> None:
    master = composed(hydra, "model=resnet18", "protocol.processes=1,0")
    with pytest.raises(ConfigError, match="processes"):
        check_combinations(master)


def test_invalid_job_of_a_search_is_refused_before_its_first_look(hydra: Hydra) -> None:
    master = composed(hydra, "search=best", "model=resnet18", "protocol.processes=1,0")
    with pytest.raises(ConfigError, match="processes"):
        check_combinations(master)
    assert check_combinations(composed(hydra, "search=best", "model=resnet18")) is None


def test_copied_sources_share_the_store_and_list_the_same(hydra: Hydra) -> None:
    loader = hydra.config_loader
    before = {group: loader.get_group_options(group) for group in ("model", "hydra/sweeper")}
    share_store()
    assert isinstance(loader, ConfigLoaderImpl)
    assert isinstance(loader.repository, ConfigRepository)
    copied = copy.deepcopy(loader.repository)
    assert copied.get_schema_source().store is ConfigStore.instance()  # type: ignore[attr-defined]
    assert {group: loader.get_group_options(group) for group in before} == before


def test_interpolations_are_parsed_once_and_give_the_same(
    hydra: Hydra, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = hydra.config_loader.load_sweep_config(composed(hydra, *SWEEP), JOBS[2])
    job.hydra.job.num = 2
    resolved = OmegaConf.to_yaml(job.fit, resolve=True), str(job.hydra.sweep.subdir)
    parse = omegaconf.base.parse
    monkeypatch.setattr(omegaconf.base, "parse", parse)  # as it was, afterwards
    parse_once()
    parse_once()
    kept: Any = omegaconf.base.parse
    assert kept is not parse
    for _ in range(2):
        missed = kept.cache_info().misses
        assert resolved == (OmegaConf.to_yaml(job.fit, resolve=True), str(job.hydra.sweep.subdir))
    assert kept.cache_info().misses == missed > 0
    job.fit.seed = 7  # the tree is kept, not the value
    job.fit.threads = "${fit.seed}"
    assert job.fit.threads == 7
    job.fit.seed = 8
    assert job.fit.threads == 8


def test_settings_of_a_plugin_that_cannot_be_pickled_are_copied(
    hydra: Hydra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of the launcher of joblib, whose file Hydra's scan has run twice."""
    master = composed(hydra, *SWEEP, "hydra/launcher=joblib")
    plain = hydra.config_loader
    assert isinstance(plain, ConfigLoaderImpl)
    kind = OmegaConf.get_type(master.hydra.launcher)
    assert kind is not None
    monkeypatch.setattr(sys.modules[kind.__module__], kind.__name__, None)
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(master)
    assert check_combinations(master) == len(JOBS)
    loader = hydra.config_loader
    for overrides in JOBS:
        ours = loader.load_sweep_config(master, list(overrides))
        assert as_text(ours) == as_text(plain.load_sweep_config(master, list(overrides)))
        ours.model.name = "changed"  # and no copy knows of another


def test_asking_for_a_compiler_imports_nothing_that_compiles() -> None:
    program = """
import sys
from pqbench.backends.torch.compiled import _answers, check_compiler
check_compiler("cpu")
assert "torch" not in sys.modules
assert not _answers("no-such-compiler") and not _answers("false") and not _answers("'g++")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_backends_read_the_files_that_they_share_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaders: list[SweepLoader] = []

    def watched() -> SweepLoader:
        loaders.append(sweep_loader())
        return loaders[-1]

    monkeypatch.setattr(backends_here, "sweep_loader", watched)
    found = backends_here.backends(config_folder())
    assert set(found) == {path.stem for path in (config_folder() / "backend").glob("*.yaml")}
    assert loaders[0].composed == len(found)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=resnet18", "protocol.batch_sizes=[1,4]", "seed=3", "model.name=mine"],
        ["protocol=quick", "protocol.block_s=0.2", "hydra.job.name=other", "compress=prune"],
        ["compress=[prune,ort_int8]", "compress.prune.pruning_ratio=0.25", "outputs='a b'"],
        ["+protocol.extra=1", "model=cnn"],
        ["~limits", "model=cnn"],
        ["experiment=prune_and_int8", "claim.confidence=0.9"],
        ["tracking.outputs=${oc.env:HOME}", "dataset=imagefolder", "dataset.root=here"],
    ],
)
def test_values_on_top_of_chosen_options_give_what_hydra_composes(
    hydra: Hydra, overrides: list[str]
) -> None:
    master = composed(hydra, "model=resnet18,cnn")
    plain, loader = hydra.config_loader, sweep_loader()
    for _ in range(2):
        ours = loader.load_sweep_config(master, list(overrides))
        theirs = plain.load_sweep_config(master, list(overrides))
        assert as_text(ours) == as_text(theirs)
        assert OmegaConf.is_struct(ours) == OmegaConf.is_struct(theirs)
        assert OmegaConf.is_readonly(ours.hydra) == OmegaConf.is_readonly(theirs.hydra)


@pytest.mark.parametrize("wrong", ["seed=many", "model.nonsense=1", "model=nonsense", "seed=1,2"])
def test_what_cannot_be_composed_is_told_in_hydras_words(hydra: Hydra, wrong: str) -> None:
    master = composed(hydra, "model=resnet18,cnn")
    told = []
    for loader in (hydra.config_loader, sweep_loader()):
        with pytest.raises(HydraException) as error:
            loader.load_sweep_config(master, ["model=cnn", wrong])
        told.append((type(error.value), str(error.value), str(error.value.__cause__)))
    assert told[0] == told[1]
