"""Spaces for ``search=best`` whose truth is known: a launcher that draws what looks would give."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf
from record_factory import make_record
from record_launcher import RecordLauncher

from pqbench.app.entrant import Entrant
from pqbench.app.race_run import RaceRun
from pqbench.core.margins import Margins
from pqbench.core.record import Record

LOOKS_OF = [["protocol.score=false"], ["protocol.score_limit=1000"], ["protocol.processes=3"]]
# s of a cell of MobileNetV3-Large on two cores; in full: four batch sizes, eight starts
COST = {"look 1": 5.0, "look 2": 9.0, "look 3": 20.0, "full": 90.0}
TRAINING_S = 60.0
SAMPLES = {"look 1": 0, "look 2": 1000, "look 3": 3925, "full": 3925}
STARTS = {"look 1": 1, "look 2": 2, "look 3": 3, "full": 8}
BASE_MS = {"torch": 20.0, "ort": 9.0, "openvino": 8.0}


@dataclass
class World(RecordLauncher):
    """A space whose truth is known: speedup and drop of each recipe on each runtime."""

    folder: Path
    seed: int
    recipes: tuple[str, ...] = tuple(f"r{i}" for i in range(9))
    models: tuple[str, ...] = ("small", "large")
    backends: tuple[str, ...] = tuple(BASE_MS)
    cost_s: float = 0.0
    trained: set[str] = field(default_factory=set)
    launched: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.rng = np.random.default_rng(self.seed + 1000)
        self.truth = {}
        for model in self.models:
            for backend in BASE_MS:
                for number, recipe in enumerate(self.recipes):
                    trains = number % 3 == 2
                    speed = math.exp(rng.normal(0.2 + 0.25 * trains, 0.35))
                    drop = abs(rng.normal(0, 0.02 + 0.04 * trains))
                    self.truth[model, recipe, backend] = (speed, drop)
                self.truth[model, "none", backend] = (1.0, 0.0)

    def jobs(self) -> list[list[str]]:
        return [
            [f"model={m}", f"compress={r}", f"backend={b}"]
            for m in self.models
            for r in ("none", *self.recipes)
            for b in self.backends
        ]

    def trains(self, recipe: str) -> bool:
        return recipe != "none" and int(recipe[1:]) % 3 == 2

    def compose(self, job: list[str]) -> Any:
        chosen = dict(o.split("=", 1) for o in job)
        recipe = chosen["compress"]
        step = {"max_steps": None} if self.trains(recipe) else {}
        compress = {} if recipe == "none" else {recipe: step}
        names = {key: {"name": chosen[key]} for key in ("model", "backend")}
        return OmegaConf.create({**names, "dataset": {"name": "photos"}, "compress": compress})

    def save(self, number: int, overrides: Sequence[str]) -> Path:
        subdir = next((o for o in overrides if o.startswith("hydra.sweep.subdir=")), "")
        look = f"look {subdir[-1]}" if subdir else "full"
        folder = self.folder / (subdir.partition("=")[2] or str(number))
        folder.mkdir(parents=True, exist_ok=True)
        self.record(overrides, look).save(folder)
        return folder

    def record(self, overrides: Sequence[str], look: str) -> Record:
        chosen = dict(o.split("=", 1) for o in overrides if not o.startswith("hydra"))
        model, recipe, backend = chosen["model"], chosen["compress"], chosen["backend"]
        shortened = f"compress.{recipe}.max_steps=1" in overrides
        self.cost_s += COST[look]
        if self.trains(recipe) and not shortened and f"{model}{recipe}" not in self.trained:
            self.trained.add(f"{model}{recipe}")  # found in the cache by the other runtimes
            self.cost_s += TRAINING_S
        speed, drop = self.truth[model, recipe, backend]
        drop = 0.5 if shortened else drop
        level = BASE_MS[backend] * math.exp(self.rng.normal(0, 0.04))
        shape = () if recipe == "none" else (recipe,)
        made = make_record(model, backend, shape, ms=level / speed, speedup=speed, batches=(1,))
        count = SAMPLES[look]
        made.config["protocol"]["score_limit"] = 1000 if look == "look 2" else None
        if not count:
            made.accuracy = None
        for gain in made.speedup:
            gain.baseline_p50_ms = level
            gain.start_ratios = list(speed * np.exp(self.rng.normal(0, 0.015, STARTS[look])))
            gain.ratio = float(np.exp(np.mean(np.log(gain.start_ratios))))
        if shape and made.accuracy and made.accuracy.against_baseline:
            made.accuracy.count = count
            # Every look scores the same samples, from the first on.
            key = zlib.crc32(f"{self.seed}{model}{recipe}{backend}".encode())
            answered = np.random.default_rng(key).random((2, SAMPLES["full"]))[:, :count]
            lost, gained = int((answered[0] < drop + 0.002).sum()), int((answered[1] < 0.002).sum())
            compared = made.accuracy.against_baseline
            compared.lost, compared.gained = lost, gained
            compared.drop_pt = 100 * (lost - gained) / max(count, 1)
        return made

    def time_of(self, entrant: Entrant) -> float:
        chosen = dict(o.split("=", 1) for o in entrant.overrides)
        key = (chosen["model"], chosen["compress"], chosen["backend"])
        return BASE_MS[key[2]] / self.truth[key][0]


@dataclass
class Clocked(World):
    """A world whose looks take time; a clock of its own tells it."""

    now_s: float = 0.0
    stop_after: int = 10**9

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        if len(self.launched) >= self.stop_after:
            raise KeyboardInterrupt
        before = self.cost_s
        returns = super().launch(job_overrides, initial_job_idx)
        self.now_s += self.cost_s - before
        return returns


def race(world: World, budget_s: float = 1e9, **options: Any) -> RaceRun:
    options.setdefault("margins", Margins())
    return RaceRun(
        world.folder, world, world.jobs(), world.compose,
        looks=LOOKS_OF, budget_s=budget_s, n_jobs=1, **options,
    )  # fmt: skip
