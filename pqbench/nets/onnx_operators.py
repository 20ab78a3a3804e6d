"""The operators of ONNX that classifiers are made of, computed by PyTorch so that gradients flow.

Definitions: https://onnx.ai/onnx/operators/. Attributes come as ONNX stores them, with its defaults
where a file leaves them out; inputs that a node leaves out are None. Imported when a file is
trained, never before: it imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from pqbench.nets.onnx_rearranging import REARRANGING
from pqbench.nets.onnx_windows import (
    Attributes,
    Given,
    Operator,
    at,
    average_pool,
    conv,
    max_pool,
    need,
    whole,
)


def _gemm(node: Attributes, given: Given) -> Tensor:
    a, b, c = need(given[0]), need(given[1]), at(given, 2)
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    product = float(node.get("alpha", 1.0)) * (a @ b) if node.get("alpha", 1.0) != 1.0 else a @ b
    return product if c is None else product + float(node.get("beta", 1.0)) * c


def _global_mean(_: Attributes, given: Given) -> Tensor:
    x = need(given[0])
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


def _global_max(_: Attributes, given: Given) -> Tensor:
    x = need(given[0])
    return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


def _reduce(call: Callable[..., Tensor]) -> Operator:
    def run(node: Attributes, given: Given) -> Tensor:
        x, listed = need(given[0]), at(given, 1)
        axes = node.get("axes") if listed is None else whole(listed)
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return x
            axes = range(x.ndim)
        return call(x, dim=tuple(axes), keepdim=bool(node.get("keepdims", 1)))

    return run


def _l2(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return (x**2).sum(dim=dim, keepdim=keepdim).sqrt()


def _clip(node: Attributes, given: Given) -> Tensor:
    low, high = at(given, 1), at(given, 2)
    return need(given[0]).clamp(
        node.get("min") if low is None else float(low),
        node.get("max") if high is None else float(high),
    )


def _softmax(node: Attributes, given: Given, log: bool = False) -> Tensor:
    x = need(given[0])
    call: Callable[..., Tensor] = functional.log_softmax if log else functional.softmax
    axis = int(node.get("axis", -1 if node.opset >= 13 else 1))
    if node.opset >= 13:
        return call(x, dim=axis)
    # Before opset 13 all axes from this one on are one.
    return call(x.flatten(axis % x.ndim), dim=-1).reshape(x.shape)


def log_softmax(node: Attributes, given: Given) -> Tensor:
    """``LogSoftmax``, and the logarithm of what ``Softmax`` gives."""
    return _softmax(node, given, log=True)


def _hard_sigmoid(node: Attributes, given: Given) -> Tensor:
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    return (alpha * need(given[0]) + beta).clamp(0, 1)


def _hard_swish(_: Attributes, given: Given) -> Tensor:
    x = need(given[0])
    return x * (x / 6 + 0.5).clamp(0, 1)


def _gelu(node: Attributes, given: Given) -> Tensor:
    return functional.gelu(need(given[0]), approximate=node.get("approximate", "none"))


def _prelu(_: Attributes, given: Given) -> Tensor:
    x, slope = need(given[0]), need(given[1])
    return torch.where(x < 0, x * slope, x)


def _layer_norm(node: Attributes, given: Given) -> Tensor:
    x, scale, shift = need(given[0]), need(given[1]), at(given, 2)
    axis = int(node.get("axis", -1)) % x.ndim
    result = functional.layer_norm(x, x.shape[axis:], eps=float(node.get("epsilon", 1e-5))) * scale
    return result if shift is None else result + shift


def _local_norm(node: Attributes, given: Given) -> Tensor:
    return functional.local_response_norm(
        need(given[0]),
        int(node.get("size")),
        float(node.get("alpha", 1e-4)),
        float(node.get("beta", 0.75)),
        float(node.get("bias", 1.0)),
    )


def _instance_norm(node: Attributes, given: Given) -> Tensor:
    return functional.instance_norm(
        need(given[0]), weight=given[1], bias=given[2], eps=float(node.get("epsilon", 1e-5))
    )


def _divide(_: Attributes, given: Given) -> Tensor:
    a, b = need(given[0]), need(given[1])
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def _one(call: Callable[[Tensor], Tensor]) -> Operator:
    return lambda _, given: call(need(given[0]))


def _two(call: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _, given: call(need(given[0]), need(given[1]))


def _many(call: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _, given: reduce(call, [need(x) for x in given])


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


OPERATORS: Mapping[str, Operator] = {
    **REARRANGING,
    "Conv": conv,
    "Gemm": _gemm,
    "MatMul": _two(torch.matmul),
    "Add": _two(torch.add),
    "Sub": _two(torch.sub),
    "Mul": _two(torch.mul),
    "Div": _divide,
    "Pow": _two(_power),
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Sum": _many(torch.add),
    "Relu": _one(functional.relu),
    "LeakyRelu": lambda n, g: functional.leaky_relu(need(g[0]), float(n.get("alpha", 0.01))),
    "Elu": lambda n, g: functional.elu(need(g[0]), float(n.get("alpha", 1.0))),
    "Clip": _clip,
    "PRelu": _prelu,
    "Sigmoid": _one(torch.sigmoid),
    "Tanh": _one(torch.tanh),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Mish": _one(functional.mish),
    "Softplus": _one(functional.softplus),
    "Gelu": _gelu,
    "Erf": _one(torch.erf),
    "Exp": _one(torch.exp),
    "Log": _one(torch.log),
    "Sqrt": _one(torch.sqrt),
    "Reciprocal": _one(torch.reciprocal),
    "Neg": _one(torch.neg),
    "Abs": _one(torch.abs),
    "Softmax": _softmax,
    "LogSoftmax": log_softmax,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": _global_mean,
    "GlobalMaxPool": _global_max,
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "ReduceL2": _reduce(_l2),
    "Identity": _one(lambda x: x),
    "Dropout": _one(lambda x: x),
    "Where": lambda _, g: torch.where(need(g[0]), need(g[1]), need(g[2])),
    "Equal": _two(torch.eq),
    "Greater": _two(torch.gt),
    "Less": _two(torch.lt),
    "Not": _one(torch.logical_not),
    "And": _two(torch.logical_and),
    "Or": _two(torch.logical_or),
    "Floor": _one(torch.floor),
    "Ceil": _one(torch.ceil),
    "Mod": _two(torch.remainder),
    "LRN": _local_norm,
}
"""Dropout is what it is in a deployed file: nothing. Split, BatchNormalization are the module's."""
