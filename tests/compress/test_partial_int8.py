"""INT8 where it pays: the search with planted costs, and the step on true networks."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compress_models import make_onnx, make_torch, run_openvino, run_ort, sqnr

from pqbench.compress.int8_blocks import Block
from pqbench.compress.int8_search import Effort, Images, Search
from pqbench.compress.int8_trials import RUNTIMES, in_turns, noise_power, right
from pqbench.compress.partial_int8 import PartialInt8
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, DataError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData

QUICK: dict[str, Any] = {
    "calibration_size": 16, "validation_size": 32, "block_s": 0.005, "turns": 2, "tries": 2,
    "most_blocks": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    folder = tmp_path_factory.mktemp("resnet")
    return make_onnx(make_torch("resnet8", folder / "torch", split), folder / "onnx")


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


class _Planted:
    """A model whose time and errors follow from the blocks in INT8: 4 ms, and what they add.

    A file holds the numbers of its blocks. Its outputs are two scores of the sample's number.
    """

    def __init__(self, ms: list[float], error: list[float], border_ms: float) -> None:
        self.ms, self.error, self.border_ms = ms, error, border_ms
        self.now, self.rng = 0, np.random.default_rng(0)

    def clock(self) -> int:
        """Nanoseconds that calls have taken, within 2 %."""
        return self.now

    def build(self, chosen: Any, target: Path, corrected: bool) -> None:
        assert isinstance(corrected, bool)
        target.write_text(json.dumps(sorted(chosen)), encoding="utf-8")

    def open(self, path: Path, threads: int) -> Any:
        assert threads in (1, 2)
        return self.run(json.loads(path.read_text(encoding="utf-8")))

    def run(self, chosen: list[int]) -> Any:
        inside = [i in chosen for i in range(len(self.ms))]
        borders = sum(a != b for a, b in pairwise(inside))
        ms = 4 + sum(self.ms[i] for i in chosen) + self.border_ms * borders
        error = sum(self.error[i] for i in chosen)

        def run(feed: Any) -> Any:
            self.now += round(ms * 1e6 * self.rng.uniform(0.98, 1.02))
            value = feed["x"] + error
            return np.stack([value, -value], axis=1)

        return run

    def search(self, folder: Path, tries: int = 4) -> Search:
        # a third of the samples are answered right by a hair, and lost at an error above 0.05
        values = np.concatenate([np.linspace(-3, 3, 60), np.full(30, -0.05)])
        feeds = [{"x": np.array([value])} for value in values]
        images = Images(feeds[:60:6], feeds, (values < 0).astype(int))
        blocks = [Block(f"block {i}", (f"node {i}",), 1) for i in range(len(self.ms))]
        effort = Effort(block_s=0.02, turns=2, final_turns=4, tries=tries)
        float_model = folder / "float.onnx"
        self.build([], float_model, False)
        return Search(
            blocks, self.build, self.open, float_model, 2, images, effort, folder, self.clock
        )


def test_search_takes_the_blocks_that_pay(tmp_path: Path) -> None:
    """Blocks 2 and 5 cost time, 6 would win little less than its border; the rest pays."""
    planted = _Planted([-0.5, -0.5, 0.8, -0.5, -0.5, 0.8, -0.2], [0.0] * 7, 0.15)
    search = planted.search(tmp_path)
    kept = search.choose(search.measure(), 0.01)
    assert kept is not None
    assert kept[0] in ({0, 1, 3, 4}, {0, 1, 3, 4, 6})
    assert json.loads(kept[1].read_text(encoding="utf-8")) == sorted(kept[0])
    (best,) = [tried for tried in search.tried if tried.verdict == "kept"]
    assert best.speedup == pytest.approx(4 / 2.45, rel=0.05)
    assert best.speedup == max(tried.speedup for tried in search.tried)
    assert len(search.tried) == 2  # without noise: the best set and all blocks


def test_search_leaves_out_the_block_that_costs_answers(tmp_path: Path) -> None:
    planted = _Planted([-0.4] * 4, [0.001, 0.2, 0.001, 0.001], 0.05)
    search = planted.search(tmp_path)
    chain = search.measure()
    assert int(np.argmax(chain.noise)) == 1
    kept = search.choose(chain, 0.01)
    assert kept is not None
    assert kept[0] == {0, 2, 3}
    lost = search.tried[0]
    assert lost.blocks == (0, 1, 2, 3)
    assert lost.drop == pytest.approx(1 / 3, abs=0.1)
    assert lost.drop_upper > lost.drop
    assert lost.timed is None
    plan = search.plan(chain, kept[0])
    assert [block["int8"] for block in plan["blocks"]] == [True, False, True, True]
    assert plan["runs"] == [["block 0", "block 0"], ["block 2", "block 3"]]
    json.dumps(plan)


def test_search_with_one_try_tries_one_set(tmp_path: Path) -> None:
    planted = _Planted([-0.5, -0.5, 0.8, -0.5], [0.0] * 4, 0.15)
    search = planted.search(tmp_path, tries=1)
    kept = search.choose(search.measure(), 0.01)
    assert kept is not None
    assert [set(tried.blocks) for tried in search.tried] == [kept[0]]
    assert kept[0] == {0, 1, 3}


def test_search_keeps_nothing_where_nothing_pays(tmp_path: Path) -> None:
    search = _Planted([0.3] * 4, [0.0] * 4, 0.1).search(tmp_path)
    assert search.choose(search.measure(), 0.01) is None
    assert [t.blocks for t in search.tried] == [(0, 1, 2, 3)]  # plain INT8 is tried, and told
    assert search.tried[0].verdict == "not shown to be faster than FP32"


def test_partial_int8_holds_the_drop_and_tells_its_plan(
    resnet: Artifact, data: StepData, tmp_path: Path
) -> None:
    step = PartialInt8(**QUICK, max_drop=0.5, otherwise="float")
    result = step.apply(resnet, data, tmp_path)
    details = Artifact.load(tmp_path).lineage[-1].details
    plan = details["int8_plan"]
    assert details["blocks"] == len(plan["blocks"]) == 3
    assert sum(block["int8"] for block in plan["blocks"]) == details["int8_blocks"]
    assert plan["tried"]
    model = onnx.load(result.path)
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    nodes = {node.name: node for node in model.graph.node}
    for block in plan["blocks"]:
        for name in block["nodes"]:
            if name in nodes and nodes[name].op_type == "Conv":
                quantized = made_by.get(nodes[name].input[1]) == "DequantizeLinear"
                assert quantized == block["int8"]
    planned = tmp_path / "plan.json"
    planned.write_text(json.dumps(plan), encoding="utf-8")
    (tmp_path / "again").mkdir()
    again = PartialInt8(**QUICK, plan=str(planned)).apply(resnet, data, tmp_path / "again")
    x = data.train.feed(slice(0, 16))["input"]
    if details["int8_blocks"]:
        np.testing.assert_array_equal(run_ort(result, x), run_ort(again, x))
        assert details["reason"] is None
        (kept,) = [tried for tried in plan["tried"] if tried["verdict"] == "kept"]
        assert kept["timed"]["lower"] > 1
        assert sqnr(run_ort(resnet, x), run_ort(result, x)) > 10
        assert sqnr(run_ort(result, x), run_openvino(result, x)) > 10
    else:
        assert "no set of blocks pays" in details["reason"]
        np.testing.assert_array_equal(run_ort(resnet, x), run_ort(result, x))


@pytest.mark.parametrize("otherwise", ["fail", "float"])
def test_partial_int8_where_the_runtime_is_slower(
    resnet: Artifact,
    data: StepData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    otherwise: str,
) -> None:
    """ONNX Runtime, with 20 ms planted in every file that has integers."""
    opened = RUNTIMES["ort"]

    def slow(path: Path, threads: int) -> Any:
        run = opened(path, threads)
        kinds = {node.op_type for node in onnx.load(path).graph.node}
        late = 0.02 if "QuantizeLinear" in kinds else 0.0
        return lambda feed: (time.sleep(late), run(feed))[1]

    monkeypatch.setitem(RUNTIMES, "ort", slow)  # type: ignore[arg-type]
    step = PartialInt8(**QUICK, max_drop=0.9, otherwise=otherwise)
    if otherwise == "fail":
        with pytest.raises(UnsupportedError, match="no set of blocks pays on ort: 3 blocks: "):
            step.apply(resnet, data, tmp_path)
        return
    result = step.apply(resnet, data, tmp_path)
    assert "no set of blocks pays" in result.lineage[-1].details["reason"]
    x = data.train.feed(slice(0, 4))["input"]
    np.testing.assert_array_equal(run_ort(resnet, x), run_ort(result, x))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no plan"),
        ('{"blocks": [{"name": "a", "nodes": ["nobody"], "int8": true}]}', "no node 'nobody'"),
    ],
)
def test_partial_int8_refuses_what_is_no_plan(
    resnet: Artifact, data: StepData, tmp_path: Path, text: str, message: str
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        PartialInt8(**QUICK, plan=str(plan)).apply(resnet, data, tmp_path)


def test_partial_int8_of_excluded_nodes_alone_is_refused(
    resnet: Artifact, data: StepData, tmp_path: Path
) -> None:
    from pqbench.compress.onnx_ready import pre_process

    pre_process(resnet.path, tmp_path / "ready.onnx", "test")
    exclude = [node.name for node in onnx.load(tmp_path / "ready.onnx").graph.node]
    with pytest.raises(UnsupportedError, match="nothing to quantize"):
        PartialInt8(**QUICK, exclude=exclude).apply(resnet, data, tmp_path)


def test_partial_int8_needs_images_that_do_not_calibrate(
    resnet: Artifact, split: PreparedSplit, data: StepData, tmp_path: Path
) -> None:
    step = PartialInt8(**{**QUICK, "calibration_size": len(split)})
    with pytest.raises(DataError, match="do not calibrate"):
        step.apply(resnet, data, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"runtime": "torch"},
        {"otherwise": "skip"},
        {"max_drop": 1.0},
        {"validation_size": 10},
        {"tries": 0},
        {"turns": 1},
        {"block_s": 0.0},
        {"method": "guess"},
    ],
)
def test_partial_int8_refuses_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PartialInt8(**wrong)


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_runtimes_give_the_first_output(
    resnet: Artifact, split: PreparedSplit, runtime: str
) -> None:
    x = split.feed(slice(0, 1))
    scores = RUNTIMES[runtime](resnet.path, 1)(x)
    np.testing.assert_allclose(scores, run_ort(resnet, x["input"]), rtol=1e-3, atol=1e-3)


def test_in_turns_sees_a_planted_difference() -> None:
    planted = _Planted([-1.0], [0.0], 0.0)
    feed = {"x": np.zeros(1)}
    timed = in_turns(
        planted.run([]), planted.run([0]), feed, turns=4, block_s=0.02, clock=planted.clock
    )
    assert timed.won_share == pytest.approx(1 / 4, abs=0.01)
    assert timed.speedup == pytest.approx(4 / 3, rel=0.02)
    assert timed.lower <= timed.speedup
    assert timed.ms < timed.float_ms


def test_noise_power_is_relative_to_the_spread() -> None:
    exact = np.array([[0.0, 10.0], [2.0, 10.0]])
    assert noise_power(exact, exact + 0.5) == pytest.approx(4 * 0.25 / 2)
    assert right(exact, np.array([1, 0])).tolist() == [True, False]
