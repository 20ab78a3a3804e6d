"""Kernels of several sessions become layers: shared operators, conversions, what is left over."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqbench.core.backend import KernelProfile, KernelTime, Operator
from pqbench.report.layers import BETWEEN, layer_table, mean_profile
from pqbench.report.layers_view import figure, shares_to_csv, to_csv, to_html, verdict

OPERATORS = (
    Operator("conv1", "Conv", (), ("c",), "net.0.weight"),
    Operator("relu1", "Relu", ("conv1",)),
    Operator("conv2", "Conv", ("relu1",), (), "net.1.weight"),
    Operator("add", "Add", ("conv2",)),
    Operator("fc", "Gemm", ("add",)),
)
FLOAT = (
    KernelTime("c1", "Conv", 2.0, ("conv1", "relu1"), ("c2",)),
    KernelTime("c2", "Conv", 1.0, ("conv2",), ("a",)),
    KernelTime("a", "Add", 0.5, ("add",), ("f",)),
    KernelTime("f", "Gemm", 0.5, ("fc",), ()),
)
INTEGER = (
    KernelTime("q", "Quantize", 0.3, (), ("i1",), conversion=True),
    KernelTime("i1", "QConv", 1.0, ("conv1",), ("r",)),
    KernelTime("r", "Relu", 0.1, ("relu1",), ("t",)),
    KernelTime("t", "Transpose", 0.2, (), ("i2",), conversion=True),
    KernelTime("i2", "QConvAdd", 0.4, ("conv2", "add"), ("part",)),
    KernelTime("part", "Mul", 0.05, (), ("i3",)),  # of no operator: the one before it pays
    KernelTime("i3", "QGemm", 0.1, ("fc",), ("d",)),
    KernelTime("d", "Dequantize", 0.02, (), (), conversion=True),
)


def looks(kernels, rounds=6, between=0.1, shake=0.001):
    """Profiles of some rounds, each a little slower than the one before."""
    found = []
    for number in range(rounds):
        factor = 1 + shake * number
        moved = tuple(replace(k, ms=k.ms * factor) for k in kernels)
        total = sum(k.ms for k in moved) + between * factor
        found.append(KernelProfile(moved, total, OPERATORS))
    return found


def table_of(*sides, off=0.0):
    profiles = [looks(side) for side in sides]
    timed = [[p.call_ms + off * i for p in side] for i, side in enumerate(profiles)]
    return layer_table([f"s{i}" for i in range(len(sides))], profiles, timed)


def test_layers_are_what_no_session_splits():
    table = table_of(FLOAT, INTEGER)
    assert [layer.name for layer in table.layers] == ["net.0", "net.1", "fc", BETWEEN]
    first, second, last, _ = table.layers
    assert first.kinds == ("Conv", "QConv, Relu")
    assert second.kinds == ("Conv, Add", "QConvAdd, Mul")
    assert last.kinds == ("Gemm", "QGemm")
    assert first.operators == ("conv1", "relu1")
    assert second.operators == ("conv2", "add")


def test_conversions_are_part_of_the_layer_that_they_are_there_for():
    table = table_of(FLOAT, INTEGER)
    factor = sum(1 + 0.001 * i for i in range(6)) / 6
    expected = [0.5, 0.0, 0.02, 0.0]  # two kernels before the transpose, three after it
    assert [x.conversions_ms[1] for x in table.layers] == pytest.approx(
        [ms * factor for ms in expected]
    )
    assert table.layers[0].ms[1].value == pytest.approx(1.6 * factor)
    assert all(layer.conversions_ms[0] == 0 for layer in table.layers)


def test_layers_of_three_sessions_share_rows():
    table = table_of(FLOAT, INTEGER, FLOAT)
    assert [len(layer.ms) for layer in table.layers] == [3] * 4
    assert all(layer.change.value == pytest.approx(0) for layer in table.layers)


@given(st.lists(st.floats(0.001, 50), min_size=len(INTEGER), max_size=len(INTEGER)))
def test_layers_add_up_to_the_sessions_difference(times):
    other = tuple(replace(k, ms=ms) for k, ms in zip(INTEGER, times, strict=True))
    table = table_of(FLOAT, other)
    total = sum(layer.change.value for layer in table.layers)
    assert total == pytest.approx(table.total_change.value, abs=1e-6)
    assert table.total_change.value == pytest.approx(table.timed_change.value, abs=1e-6)


def test_verdict_names_the_layers_that_changed_most():
    said = " ".join(verdict(table_of(FLOAT, INTEGER)))
    assert "Faster by most: net.1 -" in said and "; fc -" in said and "; net.0 -" in said
    assert "Slower" not in said


def test_verdict_names_no_layer_where_they_do_not_account_for_the_difference():
    table = table_of(FLOAT, INTEGER, off=1.0)
    assert not table.accounts
    said = " ".join(verdict(table))
    assert "no layer is named as the reason" in said
    assert "net.0" not in said


def test_verdict_of_a_session_against_itself_names_no_layer():
    said = " ".join(verdict(table_of(FLOAT, FLOAT)))
    assert "No difference is shown, so no layer is named" in said
    assert "net.0" not in said


def test_layers_must_account_for_the_difference_within_five_percent():
    change = table_of(FLOAT, INTEGER).timed_change.value
    assert table_of(FLOAT, INTEGER, off=0.04 * change).accounts
    assert not table_of(FLOAT, INTEGER, off=0.06 * change).accounts


def test_wide_intervals_are_no_excuse():
    profiles = [looks(FLOAT), looks(INTEGER)]
    timed = [[p.call_ms for p in profiles[0]], []]
    shift = (0.3, -0.1, 0.4, -0.2, 0.5, 0.0)  # 0.15 on average
    timed[1] = [p.call_ms + s for p, s in zip(profiles[1], shift, strict=True)]
    table = layer_table(["a", "b"], profiles, timed)
    assert table.differs and not table.accounts


def test_shares_tell_every_operator_or_what_it_is_fused_with():
    table = table_of(FLOAT, INTEGER)
    shares = {share.name: share for share in table.shares}
    assert list(shares) == [operator.name for operator in OPERATORS]
    assert shares["relu1"].ms[0] is None and shares["relu1"].within == ("conv1", "")
    assert shares["add"].ms[1] is None and shares["add"].within == ("", "conv2")
    assert shares["add"].layer == "net.1"
    rows = list(csv.DictReader(io.StringIO(shares_to_csv(table))))
    assert [row["s0 fused with"] for row in rows] == ["", "conv1", "", "", ""]


def test_mean_profile_averages_kernels_and_calls():
    slow = tuple(replace(kernel, ms=3 * kernel.ms) for kernel in FLOAT)
    mean = mean_profile([KernelProfile(FLOAT, 5.0), KernelProfile(slow, 15.0)])
    assert mean.call_ms == 10.0
    assert [kernel.ms for kernel in mean.kernels] == [2 * kernel.ms for kernel in FLOAT]


def test_views_hold_every_layer_and_escape_names():
    evil = (replace(OPERATORS[0], weights="=cmd|<script>.weight"), *OPERATORS[1:])
    profiles = [[replace(p, operators=evil) for p in looks(side)] for side in (FLOAT, INTEGER)]
    table = layer_table(["a", "b"], profiles, [[p.call_ms for p in side] for side in profiles])
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["layer"] for row in rows] == ["'=cmd|<script>", "net.1", "fc", BETWEEN]
    assert float(rows[1]["change [ms]"]) == pytest.approx(table.layers[1].change.value, rel=1e-4)
    page = to_html(table, "<title>", b"png", ["<note>"])
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;note&gt;" in page
    names = [text.get_text() for text in figure(table).axes[0].get_yticklabels()]
    assert names == [layer.name for layer in table.layers]
