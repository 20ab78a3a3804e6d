"""``python scripts/conformance_page.py``: write docs/golden.md from tests/conformance/*.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from conformance import GOLDEN, MAX_DROP_PT, MAX_SIZE_RATIO, REPOSITORY

PAGE = REPOSITORY / "docs" / "golden.md"
SHOWN = ("onnxruntime-gpu", "onnxruntime", "openvino", "nncf", "torch")
HEAD = f"""# Golden results

What each quantization method costs on real weights and real images, measured through the deployed
session. Made by `scripts/conformance_page.py` from `tests/conformance/*.yaml`; a test holds this
page to those files. `python scripts/conformance.py` measures them again and shows what differs.

- *drop*: points of top-1 lost against FP32 on the same images; *agreement*: share of images with
  the same answer as FP32.
- *size*: the deployed file over FP32's. *integer share*: quantizable operators that run as integer
  kernels, read from the runtime's own optimized graph.
- *seconds*, *peak*: wall time and peak resident memory (MiB) of the compression itself, in its own
  process. The times are of a machine that had other work to do: an order of magnitude.
- A drop above {MAX_DROP_PT:g} point, or an INT8 file above {MAX_SIZE_RATIO:g} of FP32's, is an
  expected failure and has its cause named below the table.
- A row with a day of its own was measured then, on the processor that it names.
"""
COLUMNS = (
    "recipe", "settings", "backend", "top-1", "drop", "agreement", "size", "integer share",
    "seconds", "peak", "",
)  # fmt: skip


def page(files: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page.

    Args:
        files: Golden files by name.
    """
    lines = [HEAD]
    for name, golden in files.items():
        lines += [f"## {title(name, golden['dataset'])}", "", sentence(golden), ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
        causes: list[str] = []
        for cell in golden["cells"]:
            if cell["expected_failure"] and cell["expected_failure"] not in causes:
                causes.append(cell["expected_failure"])
            lines.append(line(cell, causes))
        lines += ["", *(f"{i}. {cause}" for i, cause in enumerate(causes, 1)), ""]
    return "\n".join(lines).rstrip() + "\n"


def title(name: str, dataset: str) -> str:
    """``mobilenetv3_elpv_quick`` to ``mobilenetv3 on elpv, quick``."""
    model, _, rest = name.partition(f"_{dataset}")
    return f"{model} on {dataset}" + (f", {rest.strip('_')}" if rest else "")


def sentence(golden: Mapping[str, Any]) -> str:
    """Settings, day, processor and versions."""
    when = golden["measured"]
    versions = ", ".join(f"{k} {when['libraries'][k]}" for k in SHOWN if k in when["libraries"])
    settings = " ".join(s for s in golden["settings"] if "{data}" not in s)
    narrow = " (8-bit products saturate)" if when["cpu_saturates_int8"] else ""
    settings = f"`{settings}`; " if settings else ""
    return f"{settings}{when['date']}, {when['cpu']}{narrow}; {versions}."


def line(cell: Mapping[str, Any], causes: list[str]) -> str:
    """One row; the last column points to the cause."""
    figures = cell["figures"]
    cause = cell["expected_failure"]
    recipe = f"`{','.join(cell['recipe'])}`" if cell["recipe"] else "FP32"
    settings = ", ".join(_short(s) for s in cell["settings"])
    texts = [recipe, f"`{settings}`" if settings else "", cell["backend"]]
    if figures["status"] != "ok":
        texts += [figures["status"], *[""] * 6]
    else:
        texts += [
            shown(figures["top1"], "{:.1%}"),
            shown(figures["drop_pt"], "{:.1f}"),
            shown(figures["agreement"], "{:.1%}"),
            shown(figures["size_ratio"], "{:.3f}"),
            shown(figures["int8_share"], "{:.0%}"),
            shown(figures["seconds"], "{:.0f}"),
            shown(figures["peak_mb"], "{:,}"),
        ]
    notes = [f"expected: {causes.index(cause) + 1}"] if cause else []
    if own := cell.get("measured"):
        narrow = ", 8-bit products saturate" if own["cpu_saturates_int8"] else ""
        notes.append(f"{own['date']}, {own['cpu']}{narrow}")
    texts.append("; ".join(notes))
    return "| " + " | ".join(texts) + " |"


def _short(setting: str) -> str:
    """``compress.partial_int8.plan={here}/plans/a.json`` to ``plan=plans/a.json``."""
    key, _, value = setting.partition("=")
    return f"{key.rpartition('.')[2]}={value.removeprefix('{here}/')}"


def shown(value: float | None, form: str) -> str:
    """The figure, or nothing."""
    return "" if value is None else form.format(value)


def golden_files(folder: Path = GOLDEN) -> dict[str, Any]:
    """All golden files by name."""
    files = sorted(folder.glob("*.yaml"))
    return {f.stem: yaml.safe_load(f.read_text(encoding="utf-8")) for f in files}


if __name__ == "__main__":
    PAGE.write_text(page(golden_files()), encoding="utf-8")
    print(f"wrote {PAGE}")
