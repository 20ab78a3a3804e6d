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
from collections.abc import Callable, Mapping, Sequence
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
    return (
        "\n".join([*lines, "", *_option("", ROOT / "conf" / "config.yaml", until="\nhydra:")])
        + "\n"
    )


def group_page(name: str) -> str:
    """One group: every option as its commented YAML."""
    lines = [f"# {name}", "", GROUPS.get(name, ""), ""]
    for option, path in _options(name).items():
        lines += [f"## {name}={option} {{ #{_anchor(name, option)} }}", "", *_option(name, path)]
    return "\n".join(lines) + "\n"


def _options(group: str) -> dict[str, Path]:
    folder = ROOT / "conf" / group
    paths = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _anchor(group: str, option: str) -> str:
    return re.sub(r"\W+", "-", f"{group}-{option}").lower()


def _option(group: str, path: Path, until: str | None = None) -> list[str]:
    """The leading comment as text; the keys as a table, or as they are if they are a composition.

    Args:
        group: What the keys begin with; empty: nothing.
        path: The YAML file.
        until: Only what stands before this.
    """
    text = path.read_text(encoding="utf-8")
    lines = (text.split(until)[0] if until else text).splitlines()
    if lines[0].startswith("# @package "):
        package = lines.pop(0).split()[-1]
        group = "" if package == "_global_" else package
    head: list[str] = []
    while lines and lines[0].startswith("#"):
        head.append(lines.pop(0).lstrip("# ").rstrip())
    prose = _escaped(" ".join(head))
    rows = _keys(lines, group) if group or until else None
    block = ["```yaml", *lines, "```"] if rows is None else _table(rows, group) if rows else []
    return [prose, "", *block, ""]


_LINE = re.compile(r"( *)([\w/@-]+):(?: +((?:[^#\s]|(?<=\S)#| (?! *#))+))?(?: *# *(.*))?$")


def _keys(lines: Sequence[str], group: str) -> list[tuple[str, str, str]] | None:
    """Key as it is typed, default and meaning of each; None where a line has another form."""
    above = [group] if group else []
    rows: list[tuple[str, str, str]] = []
    for line in lines:
        if line.lstrip().startswith("- ") and rows:
            key, default, meaning = rows[-1]
            item, _, remark = (part.strip() for part in line.strip()[2:].partition(" #"))
            rows[-1] = (key, f"{default}, {item}".lstrip(", "), f"{meaning} {remark}".strip())
        elif found := _LINE.match(line):
            depth = len(found[1]) // 2 + bool(group)
            above[depth:] = [found[2]]
            rows.append((".".join(above), (found[3] or "").strip(), found[4] or ""))
        elif line.strip():
            return None
    return rows


def _table(rows: Sequence[tuple[str, str, str]], group: str) -> list[str]:
    """The keys after their group; class and what is taken over from others stand above them."""
    taken = [row for row in rows if row[0].endswith(("defaults", ".defaults"))]
    lines = []
    for _, names, _ in taken if rows[0][0] != "defaults" else []:  # config.yaml's are the groups
        bases = [name.partition("@")[0] for name in names.split(", ") if name != "_self_"]
        lines += [f"As {', '.join(f'`{base}`' for base in bases)}, but for:", ""]
    made = [row for row in rows if row[0] == f"{group}._target_"]
    lines += [f"Class: `{name}`. " for _, name, _ in made]
    lines += [f"Typed as `{group}.KEY=VALUE`.", ""] if group else []
    rows = [row for row in rows if row not in [*taken, *made] and (row[1] or row[2])]
    lines += ["| key | default | meaning |", "| --- | --- | --- |"] if rows else []
    for key, default, meaning in rows:
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{key.removeprefix(f'{group}.')}` | {shown} | {_escaped(meaning)} |")
    return lines


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*").replace("|", "\\|")


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
