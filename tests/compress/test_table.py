"""docs/compress.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqbench.compress.recipe import plan
from pqbench.compress.table import markdown, order_problem, shipped, way
from pqbench.errors import UnsupportedError

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
    ways = {loads: way({name: STEPS[name]}, loads) for loads in ("torch", "onnx", "openvino")}
    assert any(f"[{name}]" in text for text in ways.values())
    for text in ways.values():
        assert f"[{name}]" in text or (text.startswith("no: ") and "use backend=" in text)
        assert f"[{name}]" in text or "(" in text, "no reason given"


def test_order_problem_is_the_message_of_the_plan() -> None:
    assert order_problem("prune", "ort_int8", STEPS) == ""
    problem = order_problem("ort_int8", "prune", STEPS)
    with pytest.raises(UnsupportedError) as caught:
        plan({"ort_int8": STEPS["ort_int8"], "prune ": STEPS["prune"]}, "torch", "torch", "torch")
    assert problem == str(caught.value)
