"""Which layer a kernel's time goes to, on graphs drawn by hand."""

from __future__ import annotations

from dataclasses import replace

from pqbench.core.backend import KernelTime, Operator
from pqbench.report.layer_assignment import assign

# a convolution, its activation, another one, an addition of both, an activation
RESIDUAL = (
    Operator("conv1", "Conv", (), ("c1",)),
    Operator("relu1", "Relu", ("conv1",), ("r1",)),
    Operator("conv2", "Conv", ("relu1",), ("c2",)),
    Operator("add", "Add", ("conv2", "relu1"), ("a",)),
    Operator("relu2", "Relu", ("add",), ("r2",)),
    Operator("fc", "Gemm", ("relu2",), ("y",)),
)


def chain(*kernels: tuple[str, str, tuple[str, ...]]) -> list[KernelTime]:
    """Kernels one after the other: name, type, names told; a conversion tells none."""
    names = [f"{place} {name}" for place, (name, _, _) in enumerate(kernels)]
    return [
        KernelTime(names[place], kind, 1.0, told, tuple(names[place + 1 : place + 2]),
                   not told and kind != "?")
        for place, (_, kind, told) in enumerate(kernels)
    ]  # fmt: skip


def charged(layers: tuple[Operator, ...], kernels: list[KernelTime]) -> list[str]:
    return [a.charged for a in assign(layers, kernels)]


def test_a_kernel_named_after_an_activation_reaches_back_to_its_convolution() -> None:
    found = assign(RESIDUAL, chain(("r1_nchwc", "Conv", ("r1",)), ("fc", "Gemm", ("fc",))))
    assert found[0].layers[:2] == ("conv1", "relu1")
    assert found[0].charged == "conv1"


def test_an_addition_and_its_activation_are_in_the_later_of_two_convolutions() -> None:
    kernels = chain(("r1", "Conv", ("r1",)), ("c2", "Conv", ("c2",)), ("fc", "Gemm", ("fc",)))
    found = assign(RESIDUAL, kernels)
    assert found[0].layers == ("conv1", "relu1")
    assert found[1].layers == ("conv2", "add", "relu2")


def test_a_kernel_of_no_name_is_what_lies_between_its_neighbours() -> None:
    kernels = chain(
        ("conv1", "Conv", ("conv1",)), ("", "?", ()), ("", "?", ()), ("conv2", "Conv", ("conv2",)),
        ("fc", "Gemm", ("fc",)),
    )  # fmt: skip
    assert charged(RESIDUAL, kernels) == ["conv1", "relu1", "relu1", "conv2", "fc"]


def test_a_kernel_that_is_in_no_layer_is_charged_to_the_one_before() -> None:
    layers = (Operator("conv1", "Conv"), Operator("conv2", "Conv", ("conv1",)))
    kernels = chain(("a", "Conv", ("conv1",)), ("", "?", ()), ("b", "Conv", ("conv2",)))
    found = assign(layers, kernels)
    assert found[1].charged == "conv1"
    assert found[1].layers == ()


LINE = tuple(
    Operator(f"l{place}", "Conv", (f"l{place - 1}",) if place else ()) for place in range(5)
)  # fmt: skip


def test_a_float_layer_among_integer_ones_pays_for_both_ways() -> None:
    kernels = chain(
        ("l0", "QLinearConv", ("l0",)), ("l1", "QLinearConv", ("l1",)),
        ("dequantize", "DequantizeLinear", ()), ("l2", "Conv", ("l2",)),
        ("quantize", "QuantizeLinear", ()), ("l3", "QLinearConv", ("l3",)),
        ("l4", "QLinearConv", ("l4",)),
    )  # fmt: skip
    assert charged(LINE, kernels) == ["l0", "l1", "l2", "l2", "l2", "l3", "l4"]


def test_an_integer_layer_among_float_ones_pays_for_both_ways() -> None:
    kernels = chain(
        ("l0", "Conv", ("l0",)), ("l1", "Conv", ("l1",)), ("quantize", "QuantizeLinear", ()),
        ("reorder", "Transpose", ()), ("l2", "QLinearConv", ("l2",)),
        ("dequantize", "DequantizeLinear", ()), ("l3", "Conv", ("l3",)), ("l4", "Conv", ("l4",)),
    )  # fmt: skip
    assert charged(LINE, kernels) == ["l0", "l1", "l2", "l2", "l2", "l2", "l3", "l4"]


def test_conversions_at_the_ends_are_charged_to_the_layer_there() -> None:
    kernels = chain(
        ("quantize", "QuantizeLinear", ()), ("l0", "QLinearConv", ("l0",)),
        ("l1", "QLinearConv", ("l1",)), ("dequantize", "DequantizeLinear", ()),
    )  # fmt: skip
    assert charged(LINE, kernels) == ["l0", "l0", "l1", "l1"]


def test_a_transpose_of_the_model_itself_is_a_layer() -> None:
    layers = (Operator("conv", "Conv"), Operator("turn", "Transpose", ("conv",)))
    kernels = [
        KernelTime("conv", "Conv", 1.0, ("conv",), ("turn",)),
        KernelTime("turn", "Transpose", 1.0, ("turn",), (), conversion=True),
    ]
    assert assign(layers, kernels)[1].layers == ("turn",)
    assert not assign(layers, kernels)[1].converts


def test_a_kernel_of_no_name_leaves_what_is_fused_before_it_to_the_kernel_before() -> None:
    layers = (
        Operator("conv", "Conv"),
        Operator("add", "Add", ("conv",)),
        Operator("swish", "HardSwish", ("add",)),
        Operator("last", "Conv", ("swish",)),
    )
    kernels = chain(
        ("c", "Conv", ("conv",)), ("", "?", ()), ("", "?", ()), ("l", "Conv", ("last",))
    )  # fmt: skip
    found = assign(layers, kernels)
    assert [a.layers for a in found] == [("conv", "add"), ("swish",), ("swish",), ("last",)]


def test_a_gate_is_a_part_of_the_layer_that_multiplies_with_it() -> None:
    layers = (Operator("conv", "Conv"), Operator("swish", "HardSwish", ("conv",), ("s",)))
    kernels = [
        KernelTime("conv", "Conv", 1.0, ("conv",), ("gate", "mul")),
        KernelTime("gate", "HardSigmoid", 1.0, ("gate",), ("mul",)),
        KernelTime("mul", "Mul", 1.0, ("s",)),
    ]
    assert [a.charged for a in assign(layers, kernels)] == ["conv", "swish", "swish"]


def test_a_products_kernel_of_no_name_computes_what_its_last_piece_is_named_after() -> None:
    # conv2 was taken apart: what came of it gets its old name at an addition
    kernels = [
        KernelTime("r1", "Conv", 1.0, ("r1",), ("inner",), False),
        KernelTime("inner", "Conv", 1.0, (), ("sin", "last"), False),
        KernelTime("sin", "Sin", 1.0, (), ("last",), False),
        KernelTime("last", "Add", 1.0, ("c2",), ("a",), False),
        KernelTime("a", "Add", 1.0, ("a",), ("fc",), False),
        KernelTime("fc", "Gemm", 1.0, ("fc",), (), False),
    ]
    assert charged(RESIDUAL, kernels) == ["conv1", "conv2", "conv2", "conv2", "add", "fc"]
    named = [replace(k, origins=("c2",)) if k.name == "inner" else k for k in kernels]
    assert charged(RESIDUAL, named)[1:4] == ["conv2"] * 3
    other = [replace(k, origins=("add",)) if k.name == "inner" else k for k in kernels]
    assert charged(RESIDUAL, other)[3] == "conv2"
