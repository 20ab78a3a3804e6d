import logging
import os
import re
import shlex
from pathlib import Path

import docs_pages
import pytest
import site_check
import yaml

ROOT = Path(__file__).parents[1]
FULL = re.MULTILINE | re.DOTALL


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation, built strictly: a warning is an error."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="pip install 'pqbench[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


def test_docs_build_without_warnings_and_without_foreign_addresses(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {"index.html", "options/model.html", "record.html", "records.html"} <= pages
    text = (site / "index.html").read_text()
    assert "fonts.googleapis" not in text


def test_every_link_of_the_site_leads_somewhere(site):
    assert site_check.broken_links(site) == []


def test_link_check_finds_a_missing_page_and_a_missing_anchor(tmp_path):
    (tmp_path / "a.html").write_text('<p id="x"><a href="b.html#y"> <a href="#x"> <a href="#z">')
    (tmp_path / "b.html").write_text('<a href="a.html#x"> <img src="c.png"> <a href="../d.html">')
    assert site_check.broken_links(tmp_path) == [
        "a.html: b.html#y",
        "a.html: #z",
        "b.html: c.png",
        "b.html: ../d.html",
    ]


def test_api_page_shows_the_whole_public_face(site):
    import pqbench
    import pqbench.testing

    text = (site / "api.html").read_text()
    aliases = {"Representation"}  # a Literal, named in the signatures
    for name in {*pqbench.__all__, *pqbench.testing.__all__} - aliases - {"Accuracy"}:
        assert re.search(rf'id="pqbench\.[\w.]*\.{name}"', text), name


def pages_made():
    """Every page by its name: those of the repository, and those that are made from the source."""
    docs = ROOT / "docs"
    found = {path.relative_to(docs).as_posix(): path.read_text() for path in docs.rglob("*.md")}
    found |= {name: made() for name, made in docs_pages.pages().items()}
    return {name: text for name, text in found.items() if not name.startswith("examples/")}


def test_every_link_of_a_page_leads_to_a_page_that_is_in_the_navigation():
    """Without mkdocs: the pages as they are written."""
    made, listed = pages_made(), navigation()
    assert set(made) == set(listed)
    assert len(listed) == len(set(listed))
    for page, text in made.items():
        plain = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s]+)\)", plain):
            target, _, anchor = link.partition("#")
            if "://" in link:
                continue
            name = os.path.normpath(Path(page).parent / target) if target else page
            assert name in made or (ROOT / "docs" / name).is_file(), f"{page}: {link}"
            if anchor and name in made:
                assert anchor in anchors(made[name]), f"{page}: {link}"


def navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text().partition("nav:")[2])

    def leaves(items):
        for item in items:
            value = next(iter(item.values())) if isinstance(item, dict) else item
            yield from leaves(value) if isinstance(value, list) else [value]

    return [*leaves(config)]


def anchors(text):
    """Of its headings, as mkdocs makes them, or as they say."""
    found = set()
    for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        given = re.search(r"\{ #([\w-]+) \}", title)
        plain = re.sub(r"[^\w\s-]", "", title.lower()).strip()
        found.add(given[1] if given else re.sub(r"[-\s]+", "-", plain))
    return found


def test_concepts_page_names_the_representations_that_there_are():
    from typing import get_args

    from pqbench.core.artifact import Representation

    text = (ROOT / "docs" / "concepts.md").read_text()
    named = ", ".join(f"`{name}`" for name in get_args(Representation))
    assert f"in one representation ({named})" in text


def test_concepts_page_names_every_status():
    from pqbench.core.errors import Status

    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "concepts.md").read_text(), re.MULTILINE)
    assert set(Status) <= set(re.findall(r"`(\w+)`", " ".join(rows)))


def test_options_pages_show_every_option_and_each_fits_a_screen():
    made = docs_pages.pages()
    for path in (ROOT / "conf").glob("*/*.yaml"):
        assert f"[{path.stem}]({path.parent.name}.md#" in made["options/index.md"]()
        page = made[f"options/{path.parent.name}.md"]()
        section = re.search(
            rf"^## {path.parent.name}={path.stem} .*?(?=^## |\Z)", page, re.M | re.S
        )
        assert section, path
        assert len(section[0].splitlines()) <= 40, path


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*/*.yaml")), ids=lambda p: p.stem)
def test_options_tables_have_every_key_with_its_default(path):
    page = docs_pages.group_page(path.parent.name)
    (section,) = re.findall(rf"^## {path.parent.name}={path.stem} .*?(?=^## |\Z)", page, FULL)
    if path.parent.name in ("search", "experiment"):  # compositions are shown as they are
        assert yaml.safe_load(re.search(r"```yaml\n(.*?)```", section, FULL)[1])
        return
    told = dict(re.findall(r"^\| `([\w.]+)` \| `?(.*?)`? \|", section, re.MULTILINE))
    package = re.match(r"# @package (\S+)", path.read_text())
    given = yaml.safe_load(path.read_text()) or {}
    bases = [b for b in given.pop("defaults", []) if b != "_self_"]
    assert all(f"`{base.partition('@')[0]}`" in section for base in bases)
    group = package[1] if package else path.parent.name
    assert given.pop("_target_", "") in section
    assert f"`{group}.KEY=VALUE`" in section or not given
    found = {key: v for k, value in given.items() for key, v in leaves(value, k)}
    assert set(found) <= set(told)
    for key, value in found.items():
        shown = yaml.safe_load(f"[{told[key]}]" if isinstance(value, list) else told[key])
        assert shown in (value, [value]), key


def leaves(value, prefix):
    """Every value that is no mapping, by its dotted key."""
    if isinstance(value, dict) and value:
        return [leaf for k, v in value.items() for leaf in leaves(v, f"{prefix}.{k}")]
    return [(prefix, value)]


def test_record_page_shows_every_field():
    from pqbench.core.record import json_schema

    text = docs_pages.record_page()
    for name, value in json_schema()["properties"].items():
        assert f"| `{name}` |" in text
        assert value["description"].replace("<", "&lt;").split("|")[0] in text


def test_commands_page_shows_every_command():
    from pqbench.app.words import COMMANDS

    text = docs_pages.commands_page()
    for name in set(COMMANDS) - {"testing"}:
        assert f"## pqbench {name}\n" in text
    assert text.count("usage: ") == len(COMMANDS) - 1


@pytest.mark.parametrize("page", ["README.md", "docs/examples/custom_model/README.md"])
def test_links_of_a_readme_lead_somewhere(page):
    text = (ROOT / page).read_text()
    named = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    named += re.findall(r"`((?:docs|scripts)/[\w/]+\.\w+)`", text)
    local = [link for link in named if "://" not in link]
    assert local
    places = [(ROOT / page).parent, ROOT]
    assert [x for x in local if not any((place / x).exists() for place in places)] == []


def commands():
    """Every ``pqbench`` command in the code blocks of README and the pages, by page."""
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text().replace("\\\n", " ")
        blocks = re.findall(r"^```(?:bash|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        blocks += re.findall(r"^    pqbench .*$", text, re.MULTILINE)
        for line in "\n".join(blocks).splitlines():
            command = line.strip().removeprefix("python -m ")
            if command.startswith("pqbench "):
                words = shlex.split(command, comments=True)[1:]
                found.append(pytest.param(words, id=f"{path.stem}: {' '.join(words)}"[:90]))
    return found


NOT_COMPOSED = ("--", "...", "${", "hydra", "search=", "backend=mine")  # yours, or a plugin's


@pytest.mark.parametrize("words", commands())
def test_commands_of_the_pages_can_be_given(words):
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from pqbench.app.arguments import config_folder
    from pqbench.app.words import COMMANDS
    from pqbench.experiment.config import from_plain, register, to_plain

    if words[0] in COMMANDS:
        options = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
        assert options <= set(re.findall(r"--[\w-]+", docs_pages.help_of(words[0])))
        return
    if any(mark in word for word in words for mark in NOT_COMPOSED):
        return
    register()
    overrides = []
    for override in OverridesParser.create().parse_overrides([w for w in words if w != "-m"]):
        text = override.input_line
        if override.is_sweep_override():  # the last, for a step's settings want the step
            text = f"{override.get_key_element()}={[*override.sweep_string_iterator()][-1]}"
        overrides.append(text)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose("config", overrides=overrides)
    assert to_plain(from_plain(composed))


def test_docs_show_the_answer_in_the_form_that_it_has():
    """With names as RECIPE, RUNTIME and COMMAND, and every figure as #."""
    page = (ROOT / "docs" / "answer.md").read_text()
    shown = re.search(r"```text\n(.*?)```", page, re.DOTALL)[1]
    told = " ".join(answer_lines())
    told = re.sub(r"\b\w+_int8 on ONNX Runtime", "RECIPE on RUNTIME", told)
    told = re.sub(r"Surer: .*?    #", "Surer: COMMAND    #", told)
    assert form(shown) == form(told)


def form(text):
    return re.sub(r"\s+", " ", re.sub(r"(N+(\.N+)?|\d[\d,]*(\.\d+)?)(?=\W|$)", "#", text)).strip()


def answer_lines():
    """An answer of every kind of line, from records with two batch sizes."""
    from record_factory import make_record

    from pqbench.core.record import AgainstBaseline, Pairing, Speedup
    from pqbench.report.answer import answers, lines

    def against(lost, count=20_000):
        return AgainstBaseline(100 * lost / count, 0, 1, None, 0.9, lost=lost, gained=0)

    def speedups(ratio):
        starts = [ratio * (1 + 0.001 * i) for i in range(-2, 3)]
        return [Speedup(b, ratio, ratio, ratio, 12, 0, False, 5.0, starts) for b in (1, 16)]

    def record(recipe, backend="ort", lost=3, ratio=2.0, count=20_000):
        made = make_record(backend=backend, recipe=(recipe,) if recipe else (), batches=(1, 16))
        made.identity = f"{backend}-{recipe}"
        if recipe:
            made.accuracy.count = count
            made.accuracy.against_baseline = against(lost, count)
            made.speedup = speedups(ratio)
        return made

    torch, best, equal = record("", "torch"), record("a_int8"), record("b_int8")
    others = [record("c_int8", lost=2000), record("d_int8", ratio=0.5)]
    unsure = record("e_int8", lost=3, count=400)
    unsure.config["dataset"]["limit"] = 400
    records = [torch, record(""), best, equal, *others, unsure]
    pairings = [
        Pairing(r.fingerprint, torch.fingerprint, [r.identity, torch.identity], speedups(3.0))
        for r in (best, equal)
    ]
    for pairing in pairings:
        pairing.against = against(3)
    (found,) = answers(records, pairings)
    return lines(found)
