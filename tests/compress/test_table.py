"""docs/compress.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pqbench.app.arguments import config_folder
from pqbench.compress.recipe import plan
from pqbench.compress.table import BACKENDS, markdown, order_problem, shipped, way
from pqbench.core.backend import Backend
from pqbench.core.errors import UnsupportedError
from pqbench.core.instantiate import make
from pqbench.experiment import config as schema

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = shipped(REPOSITORY / "conf")


def test_page_is_what_the_steps_declare() -> None:
    page = (REPOSITORY / "docs" / "compress.md").read_text(encoding="utf-8")
    assert page == markdown(STEPS), "run python scripts/compress_table.py"


def test_table_has_every_shipped_step() -> None:
    files = {file.stem for file in (REPOSITORY / "conf" / "compress").glob("*.yaml")}
    assert set(STEPS) == files - {"none"}


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_step_runs_somewhere_and_says_why_not_elsewhere(name: str) -> None:
    ways = {backend: way({name: STEPS[name]}, backend) for backend in BACKENDS}
    assert any(f"[{name}]" in text for text in ways.values())
    for text in ways.values():
        assert f"[{name}]" in text or (text.startswith("no: ") and "use backend=" in text)
        assert f"[{name}]" in text or "(" in text, "no reason given"


def test_order_problem_is_the_message_of_the_plan() -> None:
    assert order_problem("prune", "ort_int8", STEPS) == ""
    problem = order_problem("ort_int8", "prune", STEPS)
    with pytest.raises(UnsupportedError) as caught:
        plan(
            {"ort_int8": STEPS["ort_int8"], "prune ": STEPS["prune"]}, "torch", ("torch",), "torch"
        )
    assert problem == str(caught.value)


@pytest.mark.parametrize("name", BACKENDS)
def test_table_columns_are_what_the_shipped_backends_load(name: str) -> None:
    schema.register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"backend={name}"])
    node = OmegaConf.to_container(config.backend, resolve=True)
    assert isinstance(node, dict)
    assert make({str(k): v for k, v in node.items()}, "backend", Backend).loads == BACKENDS[name]
