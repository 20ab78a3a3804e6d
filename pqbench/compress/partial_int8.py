"""INT8 in the blocks of a network where it pays, float in the others.

What a runtime cannot fuse in INT8, or must convert at the border of INT8 and float, can cost more
than integer products win. So the blocks are chosen by what they win on the runtime that will run
them and by what they cost in accuracy: see ``int8_chain`` for the prediction, ``int8_search`` for
the search. The same is done by hand with ``ort_int8.exclude``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pqbench.compress.calibration import Calibration, draw, refuse_quantized
from pqbench.compress.int8_blocks import Block, coarser, cut
from pqbench.compress.int8_search import Build, Effort, Images, Search
from pqbench.compress.int8_trials import RUNTIMES
from pqbench.compress.ort_int8 import FILE, OrtInt8, count_quantizers
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, DataError, UnsupportedError
from pqbench.core.step import StepData

if TYPE_CHECKING:
    import onnx

OTHERWISE = ("fail", "float")
NOISE_IMAGES = 24


@dataclass(frozen=True)
class PartialInt8(OrtInt8):
    """``ort_int8`` in those blocks alone where the runtime gains by it, within a drop allowed.

    Times are taken with the device lock held; what is found depends on them, so that two searches
    may keep different sets of nearly the same worth.

    Attributes:
        runtime: Where it is timed: ``ort``, or ``openvino`` (which reads the same file).
        max_drop: Largest drop of the share of right answers, in [0, 1): 0.01 is one point. A set is
            taken or refused by the drop itself, not by its upper bound (``drop_upper`` in
            ``int8_plan.json``), on ``validation_size`` less 24 training images that neither
            calibrate nor tell the noise of the blocks.
        validation_size: Labelled training images held apart from those that calibrate: 24 for the
            noise, the others to take or refuse whole sets.
        most_blocks: Blocks that the model is cut into, at most: each is built three times.
        tries: Sets of blocks that are built and scored whole, at most.
        block_s: Seconds of calls in a timed block.
        turns: Timed pairs of blocks for each cut; a set's speedup is judged on three times as many.
        plan: ``int8_plan.json`` of an earlier record: its blocks, on this runtime or another,
            without a search.
        otherwise: Where no set is both within the drop and faster: ``fail``, or ``float``: keep the
            model in FP32 and say so in the lineage.
    """

    name: ClassVar[str] = "partial_int8"
    limits: ClassVar[Sequence[str]] = ("data whose labels are not one class per sample",)

    bias_correction: bool = True
    integer_gates: bool = True
    runtime: str = "ort"
    max_drop: float = 0.01
    validation_size: int = 300
    most_blocks: int = 16
    tries: int = 6
    block_s: float = 0.06
    turns: int = 8
    otherwise: str = "fail"
    plan: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, allowed in (("runtime", tuple(RUNTIMES)), ("otherwise", OTHERWISE)):
            value = getattr(self, key)
            if value not in allowed:
                raise ConfigError(
                    f"partial_int8.{key} '{value}' is unknown",
                    hint=f"choose one of {', '.join(allowed)}",
                )
        if not 0.0 <= self.max_drop < 1.0:
            raise ConfigError(f"max_drop must lie in [0, 1), got {self.max_drop}")
        for key, least in (
            ("validation_size", NOISE_IMAGES + 1),
            ("tries", 1),
            ("turns", 2),
            ("most_blocks", 1),
        ):
            if getattr(self, key) < least:
                raise ConfigError(f"{key} must be at least {least}, got {getattr(self, key)}")
        if self.block_s <= 0:
            raise ConfigError(f"block_s must be above 0, got {self.block_s}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Search, and save ``model.onnx`` with the blocks that pay in INT8.

        Raises:
            UnsupportedError: The model is quantized already, or labels are no classes; or no set
                of blocks pays, and ``otherwise`` is ``fail``.
            DataError: No training images are left to score.
        """
        import onnx

        start = time.perf_counter()
        refuse_quantized(onnx.load(artifact.path, load_external_data=False), self.name)
        calibration = draw(artifact, data, self.calibration_size)
        with TemporaryDirectory(dir=workdir) as scratch:
            folder = Path(scratch)
            ready = folder / "ready.onnx"
            symbolic = self.prepare(artifact.path, ready)
            model = onnx.load(ready)
            excluded = self._excluded(model)
            if self.plan is None:
                blocks = [b for b in cut(model) if b.products and not set(b.nodes) <= set(excluded)]
                blocks, planned = coarser(blocks, self.most_blocks), frozenset[int]()
            else:
                blocks, planned = read_plan(Path(self.plan), model)
            if not blocks:
                raise UnsupportedError(
                    "partial_int8 found nothing to quantize in this model",
                    hint="it needs convolutions or matrix products with constant weights",
                )
            build = partial(self._build, ready, blocks, excluded, calibration, data.threads, folder)
            if self.plan is None:
                found = self._searched(artifact, calibration, data, blocks, build, workdir / FILE)
            else:
                build(planned, workdir / FILE, True)
                found = {"blocks": len(blocks), "int8_blocks": len(planned)}
        told = {**calibration.details(), "symbolic_shapes": symbolic}
        counts = count_quantizers(workdir / FILE)
        return self.finish(artifact, workdir, start, {**told, **counts, **found})

    def _searched(
        self,
        artifact: Artifact,
        calibration: Calibration,
        data: StepData,
        blocks: list[Block],
        build: Build,
        target: Path,
    ) -> dict[str, Any]:
        """Search, and write the model that is kept; gives what was found, for the lineage."""
        images = self._images(calibration, data)
        effort = Effort(self.block_s, self.turns, 3 * self.turns, self.tries)
        with TemporaryDirectory(dir=target.parent) as scratch:
            # The float side of every timing is the given file, as a deployment has it.
            search = Search(
                blocks,
                build,
                RUNTIMES[self.runtime],
                artifact.path,
                data.threads,
                images,
                effort,
                Path(scratch),
            )
            chain = search.measure()
            kept = search.choose(chain, self.max_drop)
            reason = None if kept else f"no set of blocks pays on {self.runtime}: "
            if reason is not None:
                reason += _summary(search)
                if self.otherwise == "fail":
                    raise UnsupportedError(
                        f"partial_int8: {reason}",
                        hint="raise max_drop, or keep FP32 (compress.partial_int8.otherwise=float)",
                    )
            chosen, file = kept if kept is not None else (frozenset[int](), artifact.path)
            copyfile(file, target)
        return {
            "noise_images": len(images.noise),
            "validation_images": len(images.scored),
            "blocks": len(blocks),
            "int8_blocks": len(chosen),
            "reason": reason,
            "int8_plan": search.plan(chain, chosen),
        }

    def _build(
        self,
        ready: Path,
        blocks: list[Block],
        excluded: list[str],
        calibration: Calibration,
        threads: int,
        folder: Path,
        chosen: Collection[int],
        target: Path,
        corrected: bool,
    ) -> None:
        """Write the model with some blocks in INT8."""
        inside = {name for number in chosen for name in blocks[number].nodes}
        floats = [name for block in blocks for name in block.nodes if name not in inside]
        step = self if corrected else _uncorrected(self)
        step.quantize(
            ready,
            target,
            calibration,
            [*excluded, *floats],
            threads,
            ranges=folder / "ranges.json",
        )

    def _images(self, calibration: Calibration, data: StepData) -> Images:
        """Training images that do not calibrate: some for the noise, the others to score."""
        if data.train.labels().ndim != 1:
            raise UnsupportedError(
                "partial_int8 scores one class per sample, these labels are of another kind",
                hint="use compress=ort_int8, with the nodes that stay in float in exclude",
            )
        everything = data.train.spread(len(calibration) + self.validation_size, data.seed)
        apart = np.setdiff1d(everything, calibration.indices)
        apart = np.random.default_rng(data.seed).permutation(apart)[: self.validation_size]
        if len(apart) <= NOISE_IMAGES:
            raise DataError(
                f"{len(apart)} training images do not calibrate; partial_int8 needs more than "
                f"{NOISE_IMAGES} to choose blocks and to score them",
                hint="lower calibration_size, or raise dataset.train_limit",
            )
        feeds = list(Calibration(data.train, calibration.names, apart))
        labels = np.asarray(data.train.labels())[apart[NOISE_IMAGES:]]
        return Images(feeds[:NOISE_IMAGES], feeds[NOISE_IMAGES:], labels)


def read_plan(path: Path, model: onnx.ModelProto) -> tuple[list[Block], frozenset[int]]:
    """The blocks of an earlier search, and which of them are in INT8.

    Args:
        path: ``int8_plan.json`` of a record.
        model: The prepared model, which must have its nodes.

    Raises:
        ConfigError: The file is no plan, or one of another model.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["blocks"]
        blocks = [Block(block["name"], tuple(block["nodes"]), 1) for block in told]
        chosen = frozenset(number for number, block in enumerate(told) if block["int8"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"partial_int8.plan: {path} is no plan: {type(error).__name__} {error}",
            hint="it is the int8_plan.json beside a record of partial_int8",
        ) from error
    unknown = {name for b in blocks for name in b.nodes} - {node.name for node in model.graph.node}
    if unknown:
        raise ConfigError(
            f"partial_int8.plan: the model has no node '{min(unknown)}'",
            hint="the plan is of another model, or was made with another integer_gates",
        )
    return blocks, chosen


def _uncorrected(step: PartialInt8) -> PartialInt8:
    """For timing: biases do not change how long a model takes."""
    from dataclasses import replace

    return replace(step, bias_correction=False)


def _summary(search: Search) -> str:
    """The sets tried, in one line."""
    told = [
        f"{len(t.blocks)} blocks: {100 * t.drop:+.1f} points"
        + (f", {t.timed.speedup:.2f} [{t.timed.lower:.2f}, ...) times" if t.timed else "")
        for t in search.tried
    ]
    return "; ".join(told) or "none is faster even by the times of its cuts"
