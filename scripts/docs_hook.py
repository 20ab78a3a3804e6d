"""MkDocs hook: the pages that are made from the source, so that they cannot fall behind it.

``options.md`` comes from the YAML files of ``conf/`` with their comments, ``record.md`` from the
classes of ``pqbench/core/record/``.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "model": "A network and where its weights come from.",
    "dataset": "The data that a model is fitted on, calibrated with and scored on.",
    "compress": "The steps of a recipe, run in order: `compress='[prune,finetune,nncf_int8]'`.",
    "backend": "The runtime that executes the deployed model.",
    "protocol": "How latency is measured.",
    "tracking": "Where results are logged beside the records on disk.",
    "search": "Searches instead of sweeps.",
    "experiment": "Whole experiments: `experiment=demo`.",
    "hydra": "Where jobs run: `hydra/launcher=...`.",
}


def on_config(config: Any) -> Any:
    """Drop entries of the navigation whose page does not exist (yet)."""
    docs = ROOT / "docs"
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    there |= {"options.md", "record.md"}

    def kept(items: list[Any]) -> list[Any]:
        result = []
        for item in items:
            ((name, value),) = item.items()
            if isinstance(value, list):
                result.append({name: kept(value)})
            elif value in there:
                result.append(item)
        return result

    config.nav = kept(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for name, text in (("options.md", options_page()), ("record.md", record_page())):
        files.append(File.generated(config, name, content=text))
    return files


def options_page() -> str:
    """Every group of ``conf/`` with its options, each shown as its commented YAML."""
    lines = [
        "# Options",
        "",
        "One YAML file per choice; this page is made from those files. Choose one with "
        "`GROUP=OPTION`, change a key with `GROUP.KEY=VALUE`. `python -m pqbench --cfg job` prints "
        "what a command composes.",
        "",
        "## The top level",
        "",
        *_yaml(ROOT / "conf" / "config.yaml", until="\nhydra:"),
    ]
    folders = [p for p in sorted((ROOT / "conf").iterdir()) if p.is_dir()]
    order = list(GROUPS)
    folders.sort(key=lambda p: (order.index(p.name) if p.name in order else len(order), p.name))
    for folder in folders:
        paths = sorted(folder.rglob("*.yaml"))
        if not paths:
            continue
        names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
        lines += ["", f"## {folder.name}", "", GROUPS.get(folder.name, ""), ""]
        lines += ["Options: " + ", ".join(f"`{name}`" for name in names), ""]
        for name, path in zip(names, paths, strict=True):
            lines += [f"### {folder.name}={name}", "", *_yaml(path)]
    return "\n".join(lines) + "\n"


def _yaml(path: Path, until: str | None = None) -> list[str]:
    """The leading comment as text, the rest as a block."""
    text = path.read_text(encoding="utf-8")
    text = text.split(until)[0] if until else text
    head: list[str] = []
    rest = text.splitlines()
    package = [line for line in rest[:1] if line.startswith("# @package")]
    rest = rest[len(package) :]
    while rest and rest[0].startswith("#"):
        head.append(rest.pop(0).lstrip("# ").rstrip())
    prose = " ".join(head).replace("<", "&lt;")
    return [prose, "", "```yaml", *rest, "```", ""]


def record_page() -> str:
    """Every class of the record with its fields."""
    sys.path.insert(0, str(ROOT))
    from pqbench.core import record

    lines = [
        "# The record",
        "",
        "Each experiment leaves a `record.json` with these fields; this page is made from "
        "`pqbench/core/record/`. `pqbench.core.record.json_schema()` gives the JSON Schema.",
        "",
        "A record is checked when it is written and when it is read: a value of another type, a "
        "field without a declaration, NaN and infinity are refused. Records of earlier versions "
        "(`schema_version`) are read and reported; `pqbench/core/record/history.py` says what "
        "changed.",
        "",
        "Units are in the names: `_ms` milliseconds, `_s` seconds, `_mb` mebibytes (2^20 bytes), "
        "`_bytes`, `_per_s`, `_pt` percentage points. `low` and `high` are the ends of a 95 % "
        "interval. A value that was not measured is null, and `reasons` says why by its path.",
        "",
    ]
    seen: list[type] = []
    waiting: list[type] = [record.Record]
    while waiting:
        kind = waiting.pop(0)
        if kind in seen:
            continue
        seen.append(kind)
        hints = typing.get_type_hints(kind)
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        lines += [f"## {kind.__name__}", "", summary, "", "| field | type | meaning |"]
        lines += ["| --- | --- | --- |"]
        for field in dataclasses.fields(kind):
            hint = hints[field.name]
            inner = [k for k in _classes(hint) if dataclasses.is_dataclass(k)]
            waiting += inner
            text = _type_name(hint).replace(" | ", " or ")
            links = ", ".join(f"[{k.__name__}](#{k.__name__.lower()})" for k in inner)
            meaning = str(field.metadata["description"]).replace("|", "\\|").replace("<", "&lt;")
            shown = f"`{text}`" + (f": {links}" if links and text not in links else "")
            lines.append(f"| `{field.name}` | {shown} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _classes(hint: Any) -> list[type]:
    if isinstance(hint, type) and not typing.get_args(hint):
        return [hint]
    return [kind for argument in typing.get_args(hint) for kind in _classes(argument)]


def _type_name(hint: Any) -> str:
    return (
        hint.__name__
        if type(hint) is type
        else re.sub(r"pqbench\.core\.record\.\w+\.|typing\.", "", str(hint))
    )
