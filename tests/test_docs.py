import contextlib
import importlib
import io
import logging
import re
import shlex
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


@pytest.mark.parametrize("page", ["concepts.md", "sweeps.md"])
def test_pages_name_every_status(page):
    from pqbench.core.errors import Status

    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert set(Status) <= set(re.findall(r"`(\w+)`", " ".join(rows)))


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
        assert options <= set(re.findall(r"--[\w-]+", command_help(words[0])))
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


def command_help(name):
    found = importlib.util.find_spec(f"pqbench.{name}")
    package = f"pqbench.{name}" + (".__main__" if found.submodule_search_locations else "")
    told = io.StringIO()
    with contextlib.redirect_stdout(told), pytest.raises(SystemExit):
        importlib.import_module(package).main(["--help"])
    return told.getvalue()


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
