"""Blocks of a graph, and the best sets of a chain of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from compress_models import make_onnx, make_tiny, make_torch

from pqbench.compress.int8_blocks import Block, coarser, cut, name_nodes
from pqbench.compress.int8_chain import Chain, runs
from pqbench.core.split import PreparedSplit
from pqbench.nets import onnx_graph


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("mobilenet")
    source = make_torch("mobilenet_v3_small", folder / "torch", split)
    model = onnx.load(make_onnx(source, folder / "onnx").path)
    name_nodes(model)
    return model


def _read_from_outside(block: Block, model: onnx.ModelProto) -> set[str]:
    """Values that a block reads and neither makes nor holds."""
    inside = [node for node in model.graph.node if node.name in block.nodes]
    made = {name for node in inside for name in node.output}
    known = onnx_graph.constants(model.graph)
    return {n for node in inside for n in node.input if n and n not in made and n not in known}


def test_blocks_hold_every_node_once_and_read_one_value(mobilenet: onnx.ModelProto) -> None:
    blocks = cut(mobilenet)
    named = [name for block in blocks for name in block.nodes]
    assert len(named) == len(set(named))
    constants = {node.name for node in mobilenet.graph.node if node.op_type == "Constant"}
    assert set(named) == {node.name for node in mobilenet.graph.node} - constants
    assert len(blocks) > 10
    assert all(len(_read_from_outside(block, mobilenet)) == 1 for block in blocks)
    assert all(block.products for block in blocks)


def test_block_of_a_residual_sum_holds_its_squeeze_and_excite(mobilenet: onnx.ModelProto) -> None:
    types = {node.name: node.op_type for node in mobilenet.graph.node}
    sums = [b for b in cut(mobilenet) if "Add" in {types[name] for name in b.nodes}]
    gated = [b for b in sums if "HardSigmoid" in {types[name] for name in b.nodes}]
    assert len(gated) >= 4
    assert all(block.products == 5 for block in gated)  # two of them the gate's


def test_depthwise_convolution_stands_with_its_projection(mobilenet: onnx.ModelProto) -> None:
    groups = {
        n.name: onnx_graph.attribute(n, "group", 1) for n in mobilenet.graph.node
        if n.op_type == "Conv"
    }  # fmt: skip
    for block in cut(mobilenet):
        convolutions = [name for name in block.nodes if name in groups]
        if any(groups[name] > 1 for name in convolutions):
            assert any(groups[name] == 1 for name in convolutions)


def test_coarser_joins_neighbours_and_loses_no_node(mobilenet: onnx.ModelProto) -> None:
    blocks = cut(mobilenet)
    fewer = coarser(blocks, 6)
    assert len(fewer) == 6
    assert [n for b in fewer for n in b.nodes] == [n for b in blocks for n in b.nodes]
    assert sum(b.products for b in fewer) == sum(b.products for b in blocks)
    assert max(b.products for b in fewer) <= 3 * min(b.products for b in fewer)
    assert coarser(blocks, 100) == blocks


def test_name_nodes_makes_names_unique(tmp_path: Path, split: PreparedSplit) -> None:
    model = onnx.load(make_onnx(make_tiny(tmp_path / "torch", split), tmp_path / "onnx").path)
    for node in model.graph.node:
        node.name = "same"
    name_nodes(model)
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))


def _chain(seed: int, count: int) -> tuple[Chain, dict[frozenset[int], float]]:
    """A chain whose blocks and borders have known costs, and what every set truly wins."""
    rng = np.random.default_rng(seed)
    gain, enter, leave = rng.normal(0.1, 0.3, count), rng.random(count) / 5, rng.random(count) / 5
    enter[0] = leave[-1] = 0  # the network's own ends are no borders
    won = {}
    for bits in itertools.product((0, 1), repeat=count):
        chosen = frozenset(i for i, bit in enumerate(bits) if bit)
        borders = sum(enter[a] + leave[b] for a, b in runs(chosen))
        won[chosen] = float(sum(gain[i] for i in chosen) - borders)
    until = [won[frozenset(range(i + 1))] for i in range(count)]
    since = [won[frozenset(range(i, count))] for i in range(count)]
    return Chain(until, since, list(rng.random(count) * 0.01)), won


@pytest.mark.parametrize("seed", range(5))
def test_chain_predicts_every_set_from_times_at_its_cuts(seed: int) -> None:
    chain, won = _chain(seed, 8)
    for chosen, truth in won.items():
        assert chain.won_ms(chosen) == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("price", [0.0, 20.0, 200.0])
@pytest.mark.parametrize("seed", range(5))
def test_best_set_is_the_best_of_all(seed: int, price: float) -> None:
    chain, won = _chain(seed, 8)
    worth = {s: value - price * chain.noise_of(s) for s, value in won.items()}
    assert worth[chain.best(price)] == pytest.approx(max(worth.values()), abs=1e-9)


def test_front_goes_from_the_fastest_to_the_most_exact() -> None:
    chain, won = _chain(1, 9)
    front = chain.front()
    assert won[front[0]] == pytest.approx(max(won.values()))
    assert [won[s] for s in front] == sorted((won[s] for s in front), reverse=True)
    noise = [chain.noise_of(s) for s in front]
    assert noise == sorted(noise, reverse=True)
    assert all(front)
    # no set of all wins more at no more noise
    for chosen in front:
        rivals = [v for s, v in won.items() if chain.noise_of(s) <= chain.noise_of(chosen)]
        assert won[chosen] == pytest.approx(max(rivals))


def test_front_of_a_chain_that_only_loses_is_empty() -> None:
    chain = Chain([-0.1, -0.2], [-0.2, -0.3], [0.01, 0.01])
    assert chain.front() == []


def test_runs_are_stretches_of_neighbours() -> None:
    assert runs(frozenset({5, 0, 1, 3, 4})) == [(0, 1), (3, 5)]
    assert runs(frozenset()) == []
