import logging
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation, built strictly: a warning is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


def test_docs_build_without_warnings_and_without_foreign_addresses(site):
    pages = {path.name for path in site.glob("*.html")}
    assert {"index.html", "options.html", "record.html", "reading.html"} <= pages
    text = (site / "index.html").read_text()
    assert "fonts.googleapis" not in text


def test_concepts_page_names_the_representations_that_there_are():
    from typing import get_args

    from pqbench.core.artifact import Representation

    text = (ROOT / "docs" / "concepts.md").read_text()
    named = ", ".join(f"`{name}`" for name in get_args(Representation))
    assert f"in one representation ({named})" in text


def test_options_page_shows_every_option(site):
    text = (site / "options.html").read_text()
    for path in (ROOT / "conf").glob("*/*.yaml"):
        assert f"{path.parent.name}={path.stem}" in text


def test_record_page_shows_every_field():
    import docs_hook

    from pqbench.core.record import json_schema

    text = docs_hook.record_page()
    for name, value in json_schema()["properties"].items():
        assert f"| `{name}` |" in text
        assert value["description"].replace("<", "&lt;").split("|")[0] in text


def test_navigation_names_pages_that_exist_or_are_reserved():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text().partition("nav:")[2])
    names = [next(iter(item.values())) for item in config]
    flat = [n for name in names for n in ([name] if isinstance(name, str) else name)]
    pages = {n if isinstance(n, str) else next(iter(n.values())) for n in flat}
    docs = ROOT / "docs"
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    there -= {path for path in there if path.startswith("examples/")}
    assert there <= pages
    assert pages - there <= {"options.md", "record.md", "compress.md", "sweeps.md"}
