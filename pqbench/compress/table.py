"""What goes with what, in words: made from the steps' own declarations, as the errors are.

``scripts/compress_table.py`` writes docs/compress.md with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pqbench.compress.recipe import ILLEGAL, plan
from pqbench.core.artifact import Representation
from pqbench.core.errors import UnsupportedError
from pqbench.core.instantiate import find_class
from pqbench.core.step import Step

START: Representation = "torch"
HEAD = """\
# Compression steps: what each does, where it runs, what may follow

Written by `python scripts/compress_table.py` from the steps' own declarations, \
which also make the error messages; a test holds this page to them.

A recipe is a list of steps in the order in which they run: \
`compress='[prune,finetune,ort_int8]'`. Conversions between PyTorch, ONNX and OpenVINO are put in \
where they are needed. The settings of a step are in `conf/compress/STEP.yaml` and are set by \
`compress.STEP.KEY=VALUE`.

The same step twice takes a number from the second time on, and each has settings of its own: \
`compress='[finetune,prune,finetune_2]' compress.finetune_2.epochs=5`.
"""


def shipped(conf: Path) -> dict[str, type[Step]]:
    """The classes of the steps in ``conf/compress``, by name."""
    names = sorted(file.stem for file in (conf / "compress").glob("*.yaml"))
    nodes = {name: settings(conf, name) for name in names}
    return {name: find_class(node, name, Step) for name, node in nodes.items() if node}


def settings(conf: Path, name: str) -> dict[str, Any]:
    """A step's file in ``conf/compress``, over those that its ``defaults`` name."""
    from omegaconf import OmegaConf

    loaded: Any = OmegaConf.to_container(OmegaConf.load(conf / "compress" / f"{name}.yaml"))
    bases = [entry.partition("@")[0] for entry in loaded.pop("defaults", []) if entry != "_self_"]
    found: dict[str, Any] = {}
    for node in [*(settings(conf, base) for base in bases), loaded]:
        found.update(node)
    return found


BACKENDS: Mapping[str, tuple[Representation, ...]] = {
    "torch": ("torch",),
    "torch_compile": ("torch", "torch_int8"),
    "ort": ("onnx",),
    "openvino": ("openvino",),
    "tensorrt": ("onnx", "onnx_calibrated"),
    "ncnn": ("ncnn",),
    "mnn": ("mnn",),
    "executorch": ("executorch",),
    "litert": ("litert",),
}
"""The table's columns: a backend of each sort, and what it loads; a test holds them to conf/."""


def way(steps: Mapping[str, type[Step]], backend: str) -> str:
    """How a recipe reaches a backend, ``torch > onnx > [ort_int8]``; or why it does not."""
    try:
        actions = plan(steps, START, BACKENDS[backend], backend)
    except UnsupportedError as error:
        return f"no: {error}"
    words: list[str] = [START]
    words += [f"[{a.name}]" if a.kind == "step" else a.after for a in actions]
    return "`" + " > ".join(words) + "`"


def order_problem(first: str, second: str, steps: Mapping[str, type[Step]]) -> str:
    """Why ``second`` cannot follow ``first`` for any backend; empty if it can."""
    problem = ""
    for backend, loads in BACKENDS.items():
        try:
            plan({first: steps[first], f"{second} ": steps[second]}, START, loads, backend)
        except UnsupportedError as error:
            problem = problem or str(error)
        else:
            return ""
    return problem


def markdown(steps: Mapping[str, type[Step]]) -> str:
    """The whole page."""
    parts = [HEAD, *_where(steps), *_order(steps), "## Models and data that a step refuses", ""]
    parts += [f"- `{name}`: {text}." for name, step in steps.items() for text in step.limits]
    return "\n".join(parts) + "\n"


def _where(steps: Mapping[str, type[Step]]) -> list[str]:
    """Which step reaches which backend, and why it does not reach the others."""
    lines = ["## Step and backend", ""]
    lines += ["| step | kind | applied to | " + " | ".join(f"`{b}`" for b in BACKENDS) + " |"]
    lines += ["| --- " * (3 + len(BACKENDS)) + "|"]
    refused: dict[tuple[str, str], list[str]] = {}  # backends and reason: steps
    for name, step in steps.items():
        ways = {backend: way({name: step}, backend) for backend in BACKENDS}
        runs = [text for text in ways.values() if text.startswith("`")]
        applied = dict.fromkeys(text.split(f" > [{name}]")[0].split(" > ")[-1] for text in runs)
        cells = ["yes" if text.startswith("`") else "-" for text in ways.values()]
        forms = ", ".join(form.strip("`") for form in applied)
        lines.append(f"| `{name}` | {step.kind} | {forms} | {' | '.join(cells)} |")
        reasons: dict[str, list[str]] = {}
        for backend, text in ways.items():
            if not text.startswith("`"):
                reasons.setdefault(_reason(text), []).append(f"`{backend}`")
        for text, backends in reasons.items():
            refused.setdefault((", ".join(backends), text), []).append(name)
    why = [f"- Not on {on}: {text} ({_names(of)})." for (on, text), of in sorted(refused.items())]
    return [*lines, "", "## Why not", "", *why, ""]


def _reason(text: str) -> str:
    """What stands in the parentheses of a refusal: why there is no such form of the model."""
    return text.partition(" (")[2].rpartition("), backend ")[0] or text


def _order(steps: Mapping[str, type[Step]]) -> list[str]:
    """Which step may follow which: those with the same followers in one row."""
    lines = ["## Order", "", "Any step may follow any other, except:", ""]
    lines += [f"- *{later}* after *{earlier}*: {why}." for (earlier, later), why in ILLEGAL.items()]
    followers: dict[tuple[str, ...], list[str]] = {}
    for first in steps:
        after = tuple(second for second in steps if not order_problem(first, second, steps))
        followers.setdefault(after, []).append(first)
    lines += ["", "Pair by pair, for a backend that can be reached:", ""]
    lines += ["| first | then |", "| --- | --- |"]
    for after, firsts in followers.items():
        then = "any step" if len(after) == len(steps) else _names(after) or "nothing more"
        lines.append(f"| {_names(firsts)} | {then} |")
    return [*lines, ""]


def _names(steps: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in steps)
