"""What became of a network that Torch-TensorRT compiled, read from the compiled module itself.

It is a ``torch.fx.GraphModule``: a call of a module is an engine, or a part that stays in PyTorch,
whose own graph has the operators.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pqbench.backends.tensorrt.layers import FLOATS, is_product, read_layers
from pqbench.backends.torch.placement import PRODUCTS, computes
from pqbench.core.errors import PlacementError

PLUMBING = ("getitem", "_guards_fn", "_assert_tensor_metadata", "_assert_scalar", "sym_size")
"""Nodes of a graph that compute nothing: they take tuples apart and check inputs."""


@dataclass(frozen=True)
class Split:
    """Where a compiled network runs.

    Attributes:
        engines: Number of TensorRT engines.
        layers: Of all engines: layer type, and element types of its inputs (``half``).
        names: Number of layers, those included of which only the name is known.
        engine_bytes: Size of the engines; None where they do not tell.
        operators: What stays in PyTorch, by operator.
    """

    engines: int
    layers: list[tuple[str, set[str]]]
    names: int
    engine_bytes: int | None
    operators: Counter[str] = field(default_factory=Counter)

    @property
    def products(self) -> list[set[str]]:
        """Element types of the inputs of the engines' convolutions and matrix products."""
        return [kinds for kind, kinds in self.layers if is_product(kind)]

    @property
    def torch_products(self) -> dict[str, int]:
        """Convolutions and matrix products that stay in PyTorch, by operator."""
        return {name: n for name, n in self.operators.items() if name in PRODUCTS}

    def check(self, asked: str, whole: bool, mixed: bool) -> None:
        """Prove that it runs in TensorRT, at the precision asked.

        Args:
            asked: ``f32``, ``f16``, ``bf16``.
            whole: Nothing that computes may be left to PyTorch.
            mixed: Some may stay in float32, as under autocast.

        Raises:
            PlacementError: It does not; the message names what was found.
        """
        if not self.engines:
            raise PlacementError(
                f"asked Torch-TensorRT for engines, it made none: all of it would run in PyTorch: "
                f"{dict(self.operators.most_common(5))}",
                hint="set backend.min_block_size=1, or use backend=torch_cuda",
            )
        left = {name: n for name, n in self.operators.most_common() if computes(name)}
        if whole and left:
            raise PlacementError(
                f"asked for TensorRT alone, PyTorch would run {left}",
                hint="backend.others=torch measures it all the same",
            )
        types = [{FLOATS[w] for w in kinds if w in FLOATS} for kinds in self.products]
        found = Counter("+".join(sorted(kinds)) for kinds in types if kinds)
        every = set().union(*types) if types else set()
        wrong = every - {asked} if asked == "f32" else ({asked} - every if every else set())
        alone = not mixed and any(kinds and asked not in kinds for kinds in types)
        if wrong or alone:
            raise PlacementError(
                f"asked Torch-TensorRT for {asked}, its products take {dict(found)}"
            )


def read_split(module: Any, engine_class: type) -> Split:
    """Walk a compiled module.

    Args:
        module: The compiled ``torch.fx.GraphModule``.
        engine_class: ``torch_tensorrt.dynamo.runtime.TorchTensorRTModule``.
    """
    operators: Counter[str] = Counter()
    engines = []
    for kind, found in _nodes(module, engine_class):
        if kind == "engine":
            engines.append(found)
        elif found not in PLUMBING:
            operators[found] += 1
    texts = [engine.get_layer_info() for engine in engines]
    layers = [layer for text in texts for layer in read_layers(text)]
    plans = [getattr(engine, "serialized_engine", None) for engine in engines]
    sizes = [len(plan) for plan in plans if plan]
    return Split(
        engines=len(engines),
        layers=layers,
        names=sum(_count(text) for text in texts),
        engine_bytes=sum(sizes) if len(sizes) == len(engines) else None,
        operators=operators,
    )


def _nodes(module: Any, engine_class: type) -> Iterator[tuple[str, Any]]:
    """The graph's engines, and the names of its operators, those of parts included."""
    for node in module.graph.nodes:
        if node.op == "call_module":
            child = module.get_submodule(node.target)
            if isinstance(child, engine_class):
                yield "engine", child
            elif hasattr(child, "graph"):
                yield from _nodes(child, engine_class)
            else:
                yield "operator", str(node.target)
        elif node.op in ("call_function", "call_method"):
            yield "operator", _name(node.target)


def _name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", target)
    return str(getattr(packet, "__name__", packet))


def _count(text: str) -> int:
    """Layers of an engine, by the inspector's JSON; at least one where it tells none."""
    return max(len(json.loads(text).get("Layers", [])), 1)
