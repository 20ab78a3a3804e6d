"""Write the tables of docs/extend.md from the contracts: every member, its default, what it is.

A table stands between ``<!-- pqbench.Step pqbench.StepData -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extend.md"
TABLE = re.compile(r"(<!-- ((?:pqbench\.\w+ ?)+)-->\n).*?(<!-- end -->)", re.DOTALL)
GIVEN = "**must be given**"


def page(text: str) -> str:
    """The page with all its tables made anew."""

    def made(found: re.Match[str]) -> str:
        pqbench = importlib.import_module("pqbench")
        classes = [getattr(pqbench, name.partition(".")[2]) for name in found[2].split()]
        return found[1] + "".join(table(cls) for cls in classes) + "\n" + found[3]

    return TABLE.sub(made, text)


def table(cls: type) -> str:
    """One class: its sentence, and a row for each member."""
    lines = ["", f"**`pqbench.{cls.__name__}`**: {_cell(_sentence(cls))}", ""]
    lines += ["| member | default | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {default} | {_cell(text)} |" for name, default, text in members(cls)]
    return "\n".join(lines) + "\n"


def members(cls: type) -> list[tuple[str, str, str]]:
    """Name, default and meaning of everything that a class declares for its users."""
    described = attributes(cls)
    if dataclasses.is_dataclass(cls):
        return [(f.name, _field(f), described[f.name]) for f in dataclasses.fields(cls)]
    rows = [
        (name, _value(vars(cls)[name]) if name in vars(cls) else GIVEN, described[name])
        for name in inspect.get_annotations(cls)
    ]
    for name, member in vars(cls).items():
        if name.startswith("_") or name in described:
            continue
        default = GIVEN if name in cls.__abstractmethods__ else "optional"  # type: ignore[attr-defined]
        if isinstance(member, property):
            rows.append((name, default, _sentence(member)))
        elif inspect.isfunction(member):
            arguments = list(inspect.signature(member).parameters)[1:]
            rows.append((f"{name}({', '.join(arguments)})", default, _sentence(member)))
    return rows


def attributes(cls: type) -> dict[str, str]:
    """The ``Attributes:`` of a class's docstring."""
    section = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()).removesuffix(" Must be given.") for name, text in found}


def _sentence(what: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(what) or "").partition("\n\n")[0].split())


def _value(value: Any) -> str:
    return f"`{dict(value) if hasattr(value, 'items') else value!r}`"


def _field(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _value(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _value(field.default_factory())
    return GIVEN


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
