"""Order the steps of a recipe, put the conversions between them, refuse what cannot be.

Pure logic: nothing is loaded or run, so an impossible recipe is refused before any work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pqbench.core.artifact import Representation
from pqbench.core.errors import UnsupportedError
from pqbench.core.step import Kind, Step

FORWARD: Mapping[Representation, tuple[Representation, ...]] = {
    "torch": ("onnx", "executorch", "litert"),
    "torch_int8": (),
    "onnx": ("openvino", "ncnn", "mnn"),
    "onnx_calibrated": (),
    "openvino": (),
    "ncnn": (),
    "mnn": (),
    "executorch": (),
    "litert": (),
}
"""Conversions that exist; there is no way back to an earlier representation."""

FLOAT_ONLY: Mapping[Representation, str] = {
    "ncnn": "pnnx has no ncnn layer for the quantizers of an ONNX file",
    "litert": "LiteRT's INT8 needs its own quantizer: compress=litert_int8",
    "mnn": "MNN's converter ends by SIGABRT on the quantizers of an ONNX file",
    "executorch": "ExecuTorch's INT8 needs XNNPACK's own quantizer: compress=executorch_int8",
}
"""What only a float model can be converted to, and why."""

FROM_TORCH_ALONE: Mapping[Representation, str] = {
    "executorch": "ExecuTorch's programs are made of PyTorch networks, not of ONNX files",
    "litert": "LiteRT's converter knows PyTorch networks, no ONNX files",
}
"""What only a PyTorch network can be converted to, and why."""

LOADED_BY: Mapping[Representation, str] = {
    "torch": "torch",
    "torch_int8": "torch_compile",
    "onnx": "ort",
    "onnx_calibrated": "tensorrt",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "mnn": "mnn",
    "executorch": "executorch",
    "litert": "litert",
}
"""A backend that loads each representation, for hints."""

ILLEGAL: Mapping[tuple[Kind, Kind], str] = {
    ("quantize", "quantize"): "the model is quantized already, and rounding it again only loses "
    "accuracy",
    ("quantize", "train"): "a quantized model cannot be trained or pruned",
    ("quantize", "prune"): "a quantized model cannot be trained or pruned",
    ("quantize", "analyse"): "a quantized model's layers cannot be taken apart any more",
}
"""Kinds of steps (earlier, later) that cannot stand in this order, and why."""


@dataclass(frozen=True)
class Action:
    """One thing to do on the way from the source model to what the backend loads.

    Attributes:
        kind: ``step`` (one of the recipe's) or ``convert``.
        name: The step's name in the recipe; for a conversion ``export`` (torch to ONNX) or
            ``convert`` (any other), the words that lineages use.
        after: The representation that it leaves.
    """

    kind: Literal["step", "convert"]
    name: str
    after: Representation


def plan(
    steps: Mapping[str, Step | type[Step]],
    start: Representation,
    loads: Sequence[Representation],
    backend_name: str,
) -> list[Action]:
    """All actions from the source model to what the backend loads, in order.

    A step runs in a representation that the backend loads if the step takes it and the rest of
    the recipe allows it; otherwise with as few conversions before it as possible.

    Args:
        steps: The recipe by name, in order: steps, or their classes.
        start: Representation of the source model.
        loads: Representations that the backend loads.
        backend_name: The backend's name, for messages.

    Returns:
        Steps and conversions; empty if there is nothing to do.

    Raises:
        UnsupportedError: Two steps cannot stand in this order, or a step cannot work on this
            model or for this backend; the message says which, why, and what to do instead.
    """
    _check_order(steps)
    path = _find(list(steps.items()), start, loads)
    if path is None:
        raise _explain(list(steps.items()), start, loads, backend_name)
    return path


def _check_order(steps: Mapping[str, Step | type[Step]]) -> None:
    """Refuse the first pair of steps whose order is illegal."""
    named = list(steps.items())
    for i, (later, step) in enumerate(named):
        for earlier, before in named[:i]:
            reason = ILLEGAL.get((before.kind, step.kind))
            if reason is None:
                continue
            both = before.kind == step.kind
            raise UnsupportedError(
                f"{later} after {earlier}: {reason}",
                hint=f"keep one of {earlier} and {later}"
                if both
                else f"put {later} before {earlier}",
            )


def _routes(start: Representation, quantized: bool = False) -> Iterator[tuple[Representation, ...]]:
    """Every representation reachable from ``start`` as the way to it, shortest first."""
    waiting: list[tuple[Representation, ...]] = [()]
    while waiting:
        route = waiting.pop(0)
        yield route
        nexts = FORWARD[route[-1] if route else start]
        waiting += [(*route, n) for n in nexts if not (quantized and n in FLOAT_ONLY)]


def _conversions(start: Representation, route: tuple[Representation, ...]) -> list[Action]:
    befores = (start, *route)[: len(route)]
    return [
        Action("convert", "export" if before == "torch" else "convert", after)
        for before, after in zip(befores, route, strict=True)
    ]


def _find(
    steps: list[tuple[str, Step | type[Step]]],
    start: Representation,
    loads: Sequence[Representation],
    fixed: bool = False,
    quantized: bool = False,
) -> list[Action] | None:
    """The preferred way through all steps to ``loads``, or None. At most 4 routes per step.

    ``fixed``: the step before was final, so nothing is converted. ``quantized``: some step before
    has quantized the model.
    """
    routes = [()] if fixed else list(_routes(start, quantized))
    if not steps:
        for route in routes:
            if (route[-1] if route else start) in loads:
                return _conversions(start, route)
        return None
    (name, step), rest = steps[0], steps[1:]
    takes = [r for r in routes if (r[-1] if r else start) in step.takes]
    if step.kind != "train":  # a network is trained as it was given, before it is converted
        takes.sort(key=lambda r: (r[-1] if r else start) not in loads)
    for route in takes:
        here = route[-1] if route else start
        given = step.result_of(here)
        after = quantized or step.kind == "quantize"
        tail = _find(rest, given, loads, bool(step.final), after)
        if tail is not None:
            return [*_conversions(start, route), Action("step", name, given), *tail]
    return None


def _explain(
    steps: list[tuple[str, Step | type[Step]]],
    start: Representation,
    loads: Sequence[Representation],
    backend_name: str,
) -> UnsupportedError:
    """Why there is no way: the first step that cannot be reached, or the backend."""
    reachable, before = {start}, f"the model is given as {start}"
    last, stays, quantized = "", "", False
    for name, step in steps:
        usable = _further(reachable, stays, quantized) & set(step.takes)
        if not usable:
            if stays:
                return UnsupportedError(f"{name} after {last}: {stays}", hint=f"leave out {name}")
            earlier = _further({start}) & set(step.takes)
            hint = f"put {name} before {last}" if earlier else "start from the torch model"
            return UnsupportedError(
                f"{name} works on {' or '.join(step.takes)} models, but {before}, and there is no "
                "way back",
                hint=hint,
            )
        reachable, last, stays = {step.result_of(r) for r in usable}, name, step.final
        quantized = quantized or step.kind == "quantize"
        before = f"{name} gives {_one(reachable)}"
    wanted = " or ".join(loads)
    backends = [LOADED_BY[r] for r in FORWARD if r in _further(reachable, stays, quantized)]
    hint = f"use backend={' or backend='.join(backends)}"
    if not last:
        return UnsupportedError(
            f"the model is given as {start}, backend '{backend_name}' loads {wanted}, and there is "
            "no conversion",
            hint=hint,
        )
    reasons = steps[-1][1].why_not
    known = {**FROM_TORCH_ALONE, **(FLOAT_ONLY if quantized else {}), **reasons}
    reason = next((known[r] for r in loads if r in known), stays)
    why = f" ({reason})" if reason else ""
    return UnsupportedError(
        f"{last} gives {_one(reachable)} model{why}, backend '{backend_name}' cannot load that: "
        f"it loads {wanted}",
        hint=hint,
    )


def _further(
    heres: set[Representation], stays: str = "", quantized: bool = False
) -> set[Representation]:
    """What can be had from representations by conversion; themselves alone if they must stay."""
    if stays:
        return heres
    return {route[-1] if route else here for here in heres for route in _routes(here, quantized)}


def _one(representations: set[Representation]) -> str:
    """``an onnx or openvino``, in the order of conversion."""
    names = [r for r in FORWARD if r in representations]
    shown = {
        "onnx": "ONNX",
        "openvino": "OpenVINO",
        "onnx_calibrated": "calibrated ONNX",
        "mnn": "MNN",
        "executorch": "ExecuTorch",
        "litert": "LiteRT",
    }
    text = " or ".join(shown.get(n, n) for n in names)
    return f"an {text}" if text[0] in "OEe" else f"a {text}"
