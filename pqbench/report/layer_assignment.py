"""Which layers of the original model each kernel implements, and to which one its time is charged.

A runtime fuses layers, renames them, drops some and adds conversions. What it tells of names is
the start; the rest follows from the two graphs:

- a product's kernel (convolution, matrix product) reaches back from the layer that it is named
  after, an activation say, to the product itself;
- a product's kernel of no known name computes the product that a kernel behind it, no product's, is
  named after: the last piece of a layer that was taken apart bears the layer's name;
- a kernel of no known name is a part of a layer that was taken apart: the last of those that lie
  between its neighbours' layers;
- a layer that no kernel is named after is part of the kernel that gives what it reads, the last of
  several: an addition after two convolutions is fused into the second;
- a conversion (quantization, another memory layout) is charged to the layer that it is there for:
  conversions cut the kernels into islands, and it is there for the smaller of the two that it
  joins. A layer that runs in float between integer ones pays for both ways, and so does a single
  integer layer among float ones; of two islands of one size the one that is converted to pays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pqbench.core.backend import KernelTime, Operator

_PRODUCTS = ("conv", "matmul", "gemm", "fullyconnected", "lstm", "gru", "rnn", "attention")


@dataclass(frozen=True)
class Assigned:
    """What a kernel is for.

    Attributes:
        layers: Original layers that it implements, in the model's order; a conversion's, and that
            of a kernel that is in none, are empty.
        charged: The layer that its time is charged to; empty where there is none.
        converts: Whether it is a conversion.
    """

    layers: tuple[str, ...]
    charged: str
    converts: bool


def is_product(kind: str) -> bool:
    """Whether an operator or kernel type is a convolution, matrix product or recurrent layer."""
    return any(word in kind.lower() for word in _PRODUCTS)


def assign(layers: Sequence[Operator], kernels: Sequence[KernelTime]) -> list[Assigned]:
    """Assign every kernel; see the module's description.

    Args:
        layers: Of the original model, each after those that it reads.
        kernels: In order of execution.

    Returns:
        One entry per kernel.
    """
    return _Assignment(layers, kernels).result()


class _Assignment:
    """The state of assigning: layers by kernel, and which are not in one yet."""

    def __init__(self, layers: Sequence[Operator], kernels: Sequence[KernelTime]) -> None:
        self.layers = {layer.name: layer for layer in layers}
        self.order = {layer.name: place for place, layer in enumerate(layers)}
        self.readers: dict[str, list[str]] = {name: [] for name in self.layers}
        for layer in layers:
            for name in layer.inputs:
                self.readers[name].append(layer.name)
        self.kernels = kernels
        places = {kernel.name: place for place, kernel in enumerate(kernels)}
        self.consumers = [[places[n] for n in k.feeds if n in places] for k in kernels]
        self.sources: list[list[int]] = [[] for _ in kernels]
        for place, consumers in enumerate(self.consumers):
            for consumer in consumers:
                self.sources[consumer].append(place)
        results = {name: layer.name for layer in layers for name in layer.outputs}
        known = {**results, **{name: name for name in self.layers}}
        self.found = [
            {known[name] for name in kernel.origins if name in known} for kernel in kernels
        ]
        self.converts = [k.conversion and not f for k, f in zip(kernels, self.found, strict=True)]
        self.free = set(self.layers) - {name for found in self.found for name in found}

    def result(self) -> list[Assigned]:
        """All steps in their order."""
        for place in range(len(self.kernels)):
            self._reach_back(place)
        for place in range(len(self.kernels)):
            self._first_piece(place)
        between = {
            place: self._between(place)
            for place in range(len(self.kernels))
            if not self.found[place] and not self.converts[place]
        }
        for place, names in between.items():
            self.found[place] = names
        self.free -= {name for found in self.found for name in found}
        self._rest()
        charged = [self._main(found) for found in self.found]
        for place in range(len(self.kernels)):
            if not charged[place] and not self.converts[place]:
                charged[place] = self._neighbour(place, charged)
        islands = self._islands()
        for place in range(len(self.kernels)):
            if self.converts[place]:
                charged[place] = self._cause(place, islands, charged)
        return [
            Assigned(tuple(sorted(found, key=self.order.__getitem__)), main, converts)
            for found, main, converts in zip(self.found, charged, self.converts, strict=True)
        ]

    def _main(self, names: Iterable[str]) -> str:
        """The first product among some layers, else the first."""
        ordered = sorted(names, key=self.order.__getitem__)
        products = [name for name in ordered if is_product(self.layers[name].type)]
        return (products or ordered or [""])[0]

    def _reach_back(self, place: int) -> None:
        """From the layers that a product's kernel is named after to the product."""
        found = self.found[place]
        if not found or not is_product(self.kernels[place].kind):
            return
        if any(is_product(self.layers[name].type) for name in found):
            return
        first = min(found, key=self.order.__getitem__)
        path = self._path_to_product(first)
        found.update(path)
        self.free.difference_update(path)

    def _first_piece(self, place: int) -> None:
        """For a product's kernel of no name: the product that another piece is named after."""
        if self.found[place] or not is_product(self.kernels[place].kind):
            return
        computed = {
            name
            for kernel, found in zip(self.kernels, self.found, strict=True)
            if is_product(kernel.kind)
            for name in found
        }
        for piece in self._nearest(place, lambda k: self.consumers[k]):
            if not is_product(self.kernels[piece].kind):
                products = {n for n in self.found[piece] if is_product(self.layers[n].type)}
                self.found[place] |= products - computed

    def _path_to_product(self, name: str) -> list[str]:
        """Free layers back to the nearest product, it included; empty if there is none."""
        ways = [[source] for source in self.layers[name].inputs if source in self.free]
        while ways:
            way = ways.pop(0)
            if is_product(self.layers[way[-1]].type):
                return way
            ways += [[*way, s] for s in self.layers[way[-1]].inputs if s in self.free]
        return []

    def _between(self, place: int) -> set[str]:
        """A kernel of no name computes the last free layer between those of its neighbours.

        Layers before that are fused into the kernel before: run by itself, one keeps its name.
        """
        before = self._nearest(place, lambda k: self.sources[k])
        after = self._nearest(place, lambda k: self.consumers[k])
        sources = {name for k in before for name in self.found[k]}
        sinks = {name for k in after for name in self.found[k]}
        down = self._spread(sources, self.readers)
        up = self._spread(sinks, {name: layer.inputs for name, layer in self.layers.items()})
        between = (down & up) if sources and sinks else (down or up)
        return {name for name in between if not between.issuperset(self.readers[name] or [""])}

    def _spread(self, start: set[str], neighbours: Mapping[str, Sequence[str]]) -> set[str]:
        """Free layers that are reached from some through free layers alone."""
        reached: set[str] = set()
        edge = list(start)
        while edge:
            for name in neighbours[edge.pop()]:
                if name in self.free and name not in reached:
                    reached.add(name)
                    edge.append(name)
        return reached

    def _nearest(self, place: int, neighbours: Callable[[int], Sequence[int]]) -> set[int]:
        """Kernels with layers that are reached through those without."""
        reached: set[int] = set()
        seen = {place}
        edge = [place]
        while edge:
            for other in neighbours(edge.pop()):
                if other in seen:
                    continue
                seen.add(other)
                if self.found[other]:
                    reached.add(other)
                else:
                    edge.append(other)
        return reached

    def _rest(self) -> None:
        """Layers in no kernel belong to the last kernel that gives what they read."""
        kernel_of: dict[str, int] = {}
        for place, found in enumerate(self.found):
            for name in found:
                kernel_of[name] = max(place, kernel_of.get(name, place))
        left = []
        for name in (n for n in self.layers if n in self.free):
            sources = [kernel_of[s] for s in self.layers[name].inputs if s in kernel_of]
            if sources:
                kernel_of[name] = max(sources)
                self.found[kernel_of[name]].add(name)
            else:
                left.append(name)
        for name in reversed(left):  # before the first kernel
            readers = [kernel_of[r] for r in self.readers[name] if r in kernel_of]
            if readers:
                kernel_of[name] = min(readers)
                self.found[kernel_of[name]].add(name)

    def _neighbour(self, place: int, charged: Sequence[str]) -> str:
        """For a kernel that is in no layer: the layer that it follows, else that it precedes.

        But one whose source is read by its reader, too, is a part of the reader that was taken
        apart: x and the gate in ``x * gate(x)``.
        """
        sources = self._through(place, lambda k: self.sources[k])
        for reader in sorted(self._through(place, lambda k: self.consumers[k])):
            both = sources & self._through(reader, lambda k: self.sources[k])
            if both and self.found[reader]:
                return charged[reader]
        before = self._nearest(place, lambda k: self.sources[k])
        if before:
            return charged[max(before)]
        after = self._nearest(place, lambda k: self.consumers[k])
        return charged[min(after)] if after else ""

    def _islands(self) -> list[int]:
        """Size of the island that each kernel is on; see the module's description."""
        island = list(range(len(self.kernels)))

        def root(place: int) -> int:
            while island[place] != place:
                place = island[place]
            return place

        for place in range(len(self.kernels)):
            for source in self.sources[place]:
                if not self.converts[place] and not self.converts[source]:
                    island[root(place)] = root(source)
        sizes = Counter(root(k) for k in range(len(self.kernels)) if not self.converts[k])
        return [sizes[root(place)] for place in range(len(self.kernels))]

    def _cause(self, place: int, islands: Sequence[int], charged: Sequence[str]) -> str:
        """The layer that a conversion is there for."""
        sides = (
            self._through(place, lambda k: self.consumers[k]),
            self._through(place, lambda k: self.sources[k]),
        )
        near = [(islands[k], side, k) for side, found in enumerate(sides) for k in found]
        return charged[min(near)[2]] if near else ""

    def _through(self, place: int, neighbours: Callable[[int], Sequence[int]]) -> set[int]:
        """Kernels that compute, reached through conversions alone."""
        reached: set[int] = set()
        seen, edge = {place}, [place]
        while edge:
            for other in neighbours(edge.pop()):
                if other in seen:
                    continue
                seen.add(other)
                if self.converts[other]:
                    edge.append(other)
                else:
                    reached.add(other)
        return reached
