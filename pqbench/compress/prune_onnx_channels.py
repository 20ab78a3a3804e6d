"""Structured pruning of a given ONNX file: whole channels are removed, the graph computes less.

Channels are ranked by group norm (Fang et al. 2023, "DepGraph", https://arxiv.org/abs/2301.12900)
or by what outputs or loss would change by (:mod:`pqbench.compress.channel_gradients`). The weights
that read the remaining channels are fitted anew to what the whole network computed
(:mod:`pqbench.compress.channel_repair`); ``distill`` or ``finetune`` after it trains the file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.compress.calibration import check_size, draw, refuse_quantized
from pqbench.compress.channel_gradients import changes
from pqbench.compress.channel_repair import repair
from pqbench.compress.onnx_ready import pre_process, refuse_half
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets import onnx_constants, onnx_graph
from pqbench.nets.onnx_channel_rules import find_channels
from pqbench.nets.onnx_channels import Channels, choose, importance
from pqbench.nets.onnx_parameters import count_parameters

if TYPE_CHECKING:
    import onnx

FILE = "model.onnx"
SCOPES = ("global", "layer")
CRITERIA = ("group_norm", "output_change", "taylor")
GRADIENT_IMAGES = 256
Kept = Mapping[int, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class PruneOnnxChannels(Step):
    """Remove the channels that weigh least, and fit what reads the others.

    Attributes:
        ratio: Share of the removable channels to remove, in (0, 1).
        criterion: ``group_norm``: the norm of the weights that make a channel; ``output_change``:
            what the outputs would change by without it, to first order, on training images, for
            files that PyTorch can run; ``taylor``: the same of the loss, for classifiers.
        scope: ``global`` ranks all channels together, ``layer`` takes the same share of each group.
        most: Largest share that one group may lose, in (0, 1).
        round_to: The number of channels that stays is a multiple of this.
        repair_images: Training images to fit with; 0 leaves the weights as they are.
    """

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("onnx",)
    why_not: ClassVar[Mapping[Representation, str]] = {
        "torch": "it edits ONNX files; a network in PyTorch is pruned by prune"
    }

    ratio: float = 0.25
    criterion: str = "group_norm"
    scope: str = "global"
    most: float = 0.75
    round_to: int = 8
    repair_images: int = 128

    def __post_init__(self) -> None:
        for key in ("ratio", "most"):
            if not 0.0 < getattr(self, key) < 1.0:
                raise ConfigError(f"{key} must lie between 0 and 1, got {getattr(self, key)}")
        for key, known in (("scope", SCOPES), ("criterion", CRITERIA)):
            if getattr(self, key) not in known:
                raise ConfigError(
                    f"prune_onnx_channels.{key} '{getattr(self, key)}' is unknown",
                    hint=f"choose one of {', '.join(known)}",
                )
        if self.round_to < 1:
            raise ConfigError(f"round_to must be at least 1, got {self.round_to}")
        if self.repair_images:
            check_size(self.repair_images)

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Remove channels, fit, save ``model.onnx``.

        Raises:
            UnsupportedError: The model is quantized or in half precision, or no channel of it can
                be removed.
        """
        import onnx

        start = time.perf_counter()
        given = onnx.load(artifact.path)
        refuse_quantized(given, "prune_onnx_channels")
        refuse_half(given, "prune_onnx_channels")
        with TemporaryDirectory(dir=workdir) as scratch:
            ready = Path(scratch) / FILE
            pre_process(artifact.path, ready, "prune_onnx_channels")
            whole = onnx.shape_inference.infer_shapes(onnx.load(ready))
        onnx_constants.own_vectors(whole.graph)
        channels = find_channels(whole)
        kept = self._kept(whole, channels, data)
        pruned = cut(whole, channels, kept)
        repaired = {}
        if self.repair_images:
            feeds = list(draw(artifact, data, self.repair_images))
            repaired = repair(whole, pruned, channels, kept, feeds, data.threads)
        onnx_graph.save(pruned, workdir / FILE)
        before, after = (count_parameters(m).parameters for m in (given, pruned))
        entry = LineageEntry(
            action="prune_onnx_channels",
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details={
                "groups": len(kept),
                "channels": sum(channels.sizes[group] for group in kept),
                "channels_kept": sum(len(stay) for stay in kept.values()),
                "parameters_before": before,
                "parameters_after": after,
                **repaired,
            },
        )
        return artifact.derive(workdir, FILE, entry)

    def _kept(self, model: onnx.ModelProto, channels: Channels, data: StepData) -> Kept:
        """The channels that stay, by group.

        Raises:
            UnsupportedError: No group can lose one.
        """
        from onnx import numpy_helper

        free = [group for group in channels.free() if channels.sizes[group] > self.round_to]
        if self.criterion != "group_norm":
            images, by = data.train.spread(GRADIENT_IMAGES, data.seed), self.criterion
            scores = changes(model, channels, free, data.train, images, data.threads, by)
        else:
            names = {slot.tensor for slot in channels.slots if slot.makes}
            known = onnx_graph.constants(model.graph)
            weights = {name: numpy_helper.to_array(known[name]) for name in names}
            scores = [importance(channels, group, weights) for group in free]
        kept = {}
        if scores:
            together = self.scope == "global"
            chosen = choose(scores, self.ratio, self.round_to, self.most, together)
            kept = {
                group: stay
                for group, stay in zip(free, chosen, strict=True)
                if len(stay) < channels.sizes[group]
            }
        if not kept:
            raise UnsupportedError(
                "prune_onnx_channels found no channel that can be removed from this file",
                hint="it needs convolutions or products with constant weights and more than "
                f"round_to={self.round_to} channels, read by operators that it knows; a larger "
                "ratio or a smaller round_to may help",
            )
        return kept


def cut(model: onnx.ModelProto, channels: Channels, kept: Kept) -> onnx.ModelProto:
    """A copy of a model without the channels that do not stay."""
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    values = {name: numpy_helper.to_array(t) for name, t in onnx_graph.constants(graph).items()}
    changed: set[str] = set()
    for slot in channels.slots:
        places = channels.places(slot.layout, kept)
        if len(places) < values[slot.tensor].shape[slot.axis]:
            values[slot.tensor] = np.take(values[slot.tensor], places, axis=slot.axis)
            changed.add(slot.tensor)
    onnx_constants.put(graph, {name: values[name] for name in changed})
    wide = set(channels.depthwise)
    for node in graph.node:
        if node.output[0] in wide:
            layout = channels.layouts[node.output[0]] or ()
            for entry in node.attribute:
                if entry.name == "group":
                    entry.i = len(channels.places(layout, kept))
        target = channels.reshapes.get(node.output[0])
        if target is not None:
            name = onnx_graph.free_name(graph, f"{node.output[0]}_shape")
            graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
            node.input[1] = name
            for entry in [a for a in node.attribute if a.name == "allowzero"]:
                node.attribute.remove(entry)
    del graph.value_info[:]
    onnx_graph.remove_unused(graph)
    return copy
