"""The reference pages that are made from the source, so that they cannot fall behind it.

``options/`` comes from the YAML files of ``conf/`` with their comments, ``record.md`` from the
classes of ``pqbench/core/record/``, ``commands.md`` from the commands' own ``--help``,
``records.md`` from the notebook of that name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import typing
from collections.abc import Callable, Mapping
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


def pages() -> Mapping[str, Callable[[], str]]:
    """Each made page by its name, and what makes it."""
    made: dict[str, Callable[[], str]] = {
        "options/index.md": options_page,
        "record.md": record_page,
        "commands.md": commands_page,
        "records.md": notebook_page,
    }
    for name in groups():
        made[f"options/{name}.md"] = lambda name=name: group_page(name)  # type: ignore[misc]
    return made


def groups() -> list[str]:
    """The groups of ``conf/``, in the order in which they are chosen."""
    order = list(GROUPS)
    folders = [p for p in (ROOT / "conf").iterdir() if p.is_dir() and any(p.rglob("*.yaml"))]
    return sorted(
        (p.name for p in folders),
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )


def options_page() -> str:
    """Every group with its options, and the keys of the top level."""
    lines = [
        "# Options",
        "",
        "One YAML file per choice; these pages are made from those files. Choose one with "
        "`GROUP=OPTION`, change a key with `GROUP.KEY=VALUE`. `pqbench ... --cfg job` prints what "
        "a command composes.",
        "",
        "| group | what it chooses | options |",
        "| --- | --- | --- |",
    ]
    for name in groups():
        links = ", ".join(f"[{o}]({name}.md#{_anchor(name, o)})" for o in _options(name))
        lines.append(f"| [`{name}`]({name}.md) | {GROUPS.get(name, '')} | {links} |")
    lines += [
        "",
        "## The top level",
        "",
        "Keys without a group: `threads=2`, `claim.max_drop_pt=0.5`.",
    ]
    return "\n".join([*lines, "", *_yaml(ROOT / "conf" / "config.yaml", until="\nhydra:")]) + "\n"


def group_page(name: str) -> str:
    """One group: every option as its commented YAML."""
    lines = [f"# {name}", "", GROUPS.get(name, ""), ""]
    for option, path in _options(name).items():
        lines += [f"## {name}={option} {{ #{_anchor(name, option)} }}", "", *_yaml(path)]
    return "\n".join(lines) + "\n"


def _options(group: str) -> dict[str, Path]:
    folder = ROOT / "conf" / group
    paths = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _anchor(group: str, option: str) -> str:
    return re.sub(r"\W+", "-", f"{group}-{option}").lower()


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


def commands_page() -> str:
    """What each command says with ``--help``."""
    from pqbench.app.words import COMMANDS

    lines = [
        "# Commands",
        "",
        "`pqbench` runs experiments and sweeps; its arguments are the [options](options/index.md), "
        "its exit codes [among the concepts](concepts.md#exit-codes). The other commands start "
        "from records, and say here what `--help` says. `pqbench COMMAND ...` is `python -m "
        "pqbench.COMMAND ...`.",
    ]
    for name in COMMANDS:
        if (text := help_of(name)) is not None:
            lines += ["", f"## pqbench {name}", "", "```text", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def help_of(name: str) -> str | None:
    """What a command says with ``--help``, 80 columns wide; None for what is no command."""
    files = (f"pqbench/{name}.py", f"pqbench/{name}/__main__.py")
    place = next((file for file in files if (ROOT / file).is_file()), None)
    if place is None:
        return None
    module = importlib.import_module(place.removesuffix(".py").replace("/", "."))
    told, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
            module.main(["--help"])
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return told.getvalue()


def notebook_page() -> str:
    """The notebook as a page: texts, code, and what the code printed."""
    notebook = json.loads((ROOT / "docs" / "records.ipynb").read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            text = "".join(output.get("text") or output["data"]["text/plain"]).rstrip()
            parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def record_page() -> str:
    """Every class of the record with its fields."""
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
