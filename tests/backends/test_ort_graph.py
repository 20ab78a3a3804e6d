from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pqbench.backends.ort.graph import FLOAT_KERNELS, INTEGER_KERNELS, graph_facts, profile_ms

KINDS = sorted(FLOAT_KERNELS | INTEGER_KERNELS | {"Relu", "QuantizeLinear", "Reshape"})
DOMAINS = ["", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"]


def model(nodes: list[onnx.NodeProto], values: dict[str, int] | None = None) -> onnx.ModelProto:
    info = [helper.make_tensor_value_info(k, v, [1]) for k, v in (values or {}).items()]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], value_info=info))


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(DOMAINS)), max_size=30))
def test_graph_facts_count_every_node_in_any_domain(chosen: list[tuple[str, str]]) -> None:
    nodes = [helper.make_node(kind, ["a"], ["b"], domain=domain) for kind, domain in chosen]
    facts = graph_facts(model(nodes))
    assert sum(facts.kernels.values()) == len(nodes)
    assert facts.integer == sum(kind in INTEGER_KERNELS for kind, _ in chosen)
    floats = sum(kind in FLOAT_KERNELS for kind, _ in chosen)
    assert facts.quantizable == facts.integer + floats
    told = sum(v for k, v in facts.float_reasons.items() if k.endswith("in float"))
    assert told == floats


def test_graph_facts_look_into_branches() -> None:
    branch = helper.make_graph([helper.make_node("Conv", ["a"], ["b"])], "branch", [], [])
    outer = helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch)
    assert graph_facts(model([outer])).quantizable == 2


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([TensorProto.FLOAT], "f32"),
        ([TensorProto.FLOAT16], "f16"),
        ([TensorProto.FLOAT, TensorProto.FLOAT16], "f16+f32"),
        ([], "unknown"),
    ],
)
def test_graph_facts_read_the_precision_of_float_kernels(types: list[int], expected: str) -> None:
    nodes = [helper.make_node("Conv", ["a"], [f"y{i}"]) for i in range(len(types))]
    nodes.append(helper.make_node("Cast", ["a"], ["z"]))
    values = {f"y{i}": t for i, t in enumerate(types)}
    assert graph_facts(model(nodes, values)).precision == expected


def test_profile_ms_leaves_warm_up_out(tmp_path: Path) -> None:
    def node(ts: int, dur: int, op: str) -> dict[str, object]:
        name = f"x{ts}_kernel_time"
        return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": {"op_name": op}}

    def run(ts: int) -> dict[str, object]:
        return {"cat": "Session", "name": "model_run", "ts": ts, "dur": 9, "args": {}}

    events = [
        *(run(0), node(1, 90_000, "Conv")),
        *(run(100), node(101, 2000, "Conv"), node(102, 1000, "Gemm")),
        *(run(200), node(201, 4000, "Conv"), node(202, 1000, "Gemm")),
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    assert profile_ms(path, skip=1, runs=2) == {"Conv": 3.0, "Gemm": 1.0}
