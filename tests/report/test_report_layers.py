"""Kernels of several sessions become layers: shared operators, conversions, what is left over."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqbench.core.backend import KernelProfile, KernelTime
from pqbench.report.layers import BETWEEN, layer_table
from pqbench.report.layers_view import figure, to_csv, to_html, verdict

FLOAT = (
    KernelTime("c1", "Conv", 2.0, ("conv1", "relu1"), ("c2",), weights="net.0.weight"),
    KernelTime("c2", "Conv", 1.0, ("conv2",), ("a",), weights="net.1.weight"),
    KernelTime("a", "Add", 0.5, ("add",), ("f",)),
    KernelTime("f", "Gemm", 0.5, ("fc",), ()),
)
INTEGER = (
    KernelTime("q", "Quantize", 0.3, (), ("i1",), conversion=True),
    KernelTime("i1", "QConv", 1.0, ("conv1",), ("r",)),
    KernelTime("r", "Relu", 0.1, ("relu1",), ("t",)),
    KernelTime("t", "Transpose", 0.2, (), ("i2",), conversion=True),
    KernelTime("i2", "QConvAdd", 0.4, ("conv2", "add"), ("part",)),
    KernelTime("part", "Mul", 0.05, (), ("i3",)),  # no session names it
    KernelTime("i3", "QGemm", 0.1, ("fc",), ("d",)),
    KernelTime("d", "Dequantize", 0.02, (), (), conversion=True),
)


def looks(kernels, rounds=6, between=0.1, shake=0.001):
    """Profiles of some rounds, each a little slower than the one before."""
    found = []
    for number in range(rounds):
        factor = 1 + shake * number
        moved = tuple(replace(k, ms=k.ms * factor) for k in kernels)
        found.append(KernelProfile(moved, sum(k.ms for k in moved) + between * factor))
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
    assert second.kinds == ("Conv, Add", "QConvAdd")
    assert last.kinds == ("Gemm", "QGemm, Mul")  # the part that no other session has


def test_conversions_are_charged_to_the_layer_that_reads_them():
    table = table_of(FLOAT, INTEGER)
    factor = sum(1 + 0.001 * i for i in range(6)) / 6
    expected = [0.3, 0.2, 0.02, 0.0]  # the last dequantization has no reader
    assert [x.conversions_ms[1] for x in table.layers] == pytest.approx(
        [ms * factor for ms in expected]
    )
    assert table.layers[0].ms[1].value == pytest.approx(1.4 * factor)
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
    assert "Faster by most: net.1 -" in said and "; net.0 -" in said
    assert "Slower" not in said


def test_verdict_names_no_layer_where_they_do_not_account_for_the_difference():
    table = table_of(FLOAT, INTEGER, off=1.0)
    assert not table.accounts
    said = " ".join(verdict(table))
    assert "no layer is named as the reason" in said
    assert "net.0" not in said


def test_verdict_of_a_session_against_itself_names_no_layer():
    assert "No layer is shown to have changed." in verdict(table_of(FLOAT, FLOAT))


def test_views_hold_every_layer_and_escape_names():
    evil = (replace(FLOAT[0], weights="=cmd|<script>.weight"), *FLOAT[1:])
    table = table_of(evil, INTEGER)
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["layer"] for row in rows] == ["'=cmd|<script>", "net.1", "fc", BETWEEN]
    assert float(rows[1]["change [ms]"]) == pytest.approx(table.layers[1].change.value, rel=1e-4)
    page = to_html(table, "<title>", b"png", ["<note>"])
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;note&gt;" in page
    names = [text.get_text() for text in figure(table).axes[0].get_yticklabels()]
    assert names == [layer.name for layer in table.layers]
