"""Order the steps of a recipe, put the conversions between them, refuse what cannot be.

Pure logic: nothing is loaded or run, so an impossible recipe is refused before any work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pqbench.artifact import Representation
from pqbench.compress.base import Step
from pqbench.errors import UnsupportedError

FORWARD: Mapping[Representation, tuple[Representation, ...]] = {
    "torch": ("onnx",),
    "onnx": ("openvino", "engine"),
    "openvino": (),
    "engine": (),
}
"""Conversions that exist; there is no way back to an earlier representation."""

BACKENDS_FOR: Mapping[Representation, str] = {
    "torch": "torch, ort or openvino",
    "onnx": "ort or openvino",
    "openvino": "openvino",
    "engine": "tensorrt",
}


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
    loads: Representation,
    backend_name: str,
) -> list[Action]:
    """All actions from the source model to what the backend loads, in order.

    A step runs in the representation that the backend loads if the step takes it and the rest of
    the recipe allows it; otherwise with as few conversions before it as possible.

    Args:
        steps: The recipe by name, in order: steps, or their classes.
        start: Representation of the source model.
        loads: Representation that the backend loads.
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
    """Nothing but conversions may follow a quantization."""
    quantizer = ""
    for name, step in steps.items():
        if not quantizer:
            quantizer = name if step.kind == "quantize" else ""
        elif step.kind == "quantize":
            raise UnsupportedError(
                f"{name} after {quantizer}: the model is quantized already, and rounding it again "
                "only loses accuracy",
                hint=f"keep one of {quantizer} and {name}",
            )
        else:
            raise UnsupportedError(
                f"{name} after {quantizer}: a quantized model cannot be trained or pruned",
                hint=f"put {name} before {quantizer}",
            )


def _routes(start: Representation) -> Iterator[tuple[Representation, ...]]:
    """Every representation reachable from ``start`` as the way to it, shortest first."""
    waiting: list[tuple[Representation, ...]] = [()]
    while waiting:
        route = waiting.pop(0)
        yield route
        waiting += [(*route, after) for after in FORWARD[route[-1] if route else start]]


def _conversions(start: Representation, route: tuple[Representation, ...]) -> list[Action]:
    befores = (start, *route)[: len(route)]
    return [
        Action("convert", "export" if before == "torch" else "convert", after)
        for before, after in zip(befores, route, strict=True)
    ]


def _find(
    steps: list[tuple[str, Step | type[Step]]], start: Representation, loads: Representation
) -> list[Action] | None:
    """The preferred way through all steps to ``loads``, or None. At most 4 routes per step."""
    routes = list(_routes(start))
    if not steps:
        for route in routes:
            if (route[-1] if route else start) == loads:
                return _conversions(start, route)
        return None
    (name, step), rest = steps[0], steps[1:]
    takes = [r for r in routes if (r[-1] if r else start) in step.takes]
    takes.sort(key=lambda r: (r[-1] if r else start) != loads)
    for route in takes:
        here = route[-1] if route else start
        tail = _find(rest, here, loads)
        if tail is not None:
            return [*_conversions(start, route), Action("step", name, here), *tail]
    return None


def _explain(
    steps: list[tuple[str, Step | type[Step]]],
    start: Representation,
    loads: Representation,
    backend_name: str,
) -> UnsupportedError:
    """Why there is no way: the first step that cannot be reached, or the backend."""
    reachable, before = {start}, f"the model is given as {start}"
    last = ""
    for name, step in steps:
        further = {(r[-1] if r else here) for here in reachable for r in _routes(here)}
        usable = further & set(step.takes)
        if not usable:
            earlier = {r[-1] if r else start for r in _routes(start)} & set(step.takes)
            hint = f"put {name} before {last}" if earlier else "start from the torch model"
            return UnsupportedError(
                f"{name} works on {' or '.join(step.takes)} models, but {before}, and there is no "
                "way back",
                hint=hint,
            )
        reachable, last = usable, name
        before = f"{name} gives {_one(usable)}"
    if not last:
        return UnsupportedError(
            f"the model is given as {start}, backend '{backend_name}' loads {loads}, and there is "
            "no conversion",
            hint=f"use backend={BACKENDS_FOR[start]}",
        )
    reasons: Mapping[Representation, str] = getattr(steps[-1][1], "why_not", {})
    why = f" ({reasons[loads]})" if loads in reasons else ""
    fitting = BACKENDS_FOR[min(reachable, key=list(FORWARD).index)]
    return UnsupportedError(
        f"{last} gives {_one(reachable)} model{why}, backend '{backend_name}' cannot load that: "
        f"it loads {loads}",
        hint=f"use backend={' or backend='.join(fitting.replace(' or ', ', ').split(', '))}",
    )


def _one(representations: set[Representation]) -> str:
    """``an onnx or openvino``, in the order of conversion."""
    names = [r for r in FORWARD if r in representations]
    shown = {"onnx": "ONNX", "openvino": "OpenVINO"}
    text = " or ".join(shown.get(n, n) for n in names)
    return f"an {text}" if text[0] in "OEe" else f"a {text}"
