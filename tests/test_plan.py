"""What must be measured for a wished width or decision, and that the promise is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from record_factory import make_failed, make_record
from simulate import margin_record, record_of

from pqbench import plan
from pqbench.core.proportions import drop_p_at_least, drop_p_at_most, paired_difference
from pqbench.core.record import Record, Stage
from pqbench.core.sizing import (
    about,
    samples_for_drop,
    samples_for_half_width,
    starts_for_bound,
    units_for_half_width,
)
from pqbench.core.statistics import mean_of


@pytest.mark.parametrize("starts", [3, 5, 8])
def test_promised_half_width_of_a_speedup_is_reached_in_nine_of_ten_reruns(starts: int) -> None:
    rng = np.random.default_rng(starts)
    kept = []
    for _ in range(300):
        pilot = mean_of(rng.normal(0.3, 0.015, starts))
        assert pilot is not None
        total = units_for_half_width(pilot.error, pilot.dof, starts, 0.01)
        assert total is not None
        again = mean_of(rng.normal(0.3, 0.015, total))
        assert again is not None
        low, high = again.interval()
        kept.append((high - low) / 2 <= 0.01)
    assert np.mean(kept) >= 0.9


@pytest.mark.parametrize(
    ("lose", "gain", "images"),
    [(0.03, 0.02, 400), (0.005, 0.005, 400), (0.0, 0.0, 400), (0.03, 0.02, 50_000)],
)
def test_promised_half_width_of_a_drop_is_reached_in_nine_of_ten_reruns(
    lose: float, gain: float, images: int
) -> None:
    rng = np.random.default_rng(1)
    shares = [lose, gain, 1 - lose - gain]
    kept = []
    for _ in range(300):
        lost, gained, _ = rng.multinomial(images, shares)
        total = samples_for_half_width(int(lost), int(gained), images, 0.01)
        lost, gained, _ = rng.multinomial(total, shares)
        low, high = paired_difference(int(lost), int(gained), total)
        kept.append((high - low) / 2 <= 0.01)
    assert np.mean(kept) >= 0.9


def test_starts_for_bound_are_few_where_it_is_clear_and_none_where_it_is_not() -> None:
    clear = mean_of([0.02, 0.05, 0.03])
    assert clear is not None
    assert starts_for_bound(clear, 3, 0.0, 0.025) in range(4, 10)
    at_the_margin = mean_of([-0.02, 0.02, 0.0])
    assert at_the_margin is not None
    assert starts_for_bound(at_the_margin, 3, 0.0, 0.025) is None


@pytest.mark.parametrize("margin", [0.01, 0.02])
@pytest.mark.parametrize("pilot", [(0, 0), (1, 0), (0, 1), (1, 1), (4, 3), (20, 12)])
def test_samples_for_drop_are_more_than_could_not_decide_and_do_decide(
    pilot: tuple[int, int], margin: float
) -> None:
    """With few pairs that differ the normal distribution's formula alone asks for too few."""
    alpha, count = 0.05 / 189, 500
    wanted = samples_for_drop(*pilot, count, margin, alpha)
    assert wanted is not None
    below = (pilot[0] - pilot[1]) / count < margin
    p_value = drop_p_at_least if below else drop_p_at_most
    if p_value(*pilot, count, margin) > alpha:
        assert wanted > count
    lost, gained = (round(n * wanted / count) for n in pilot)
    assert p_value(lost, gained, wanted, margin) <= alpha


def test_about_rounds_up_to_two_digits() -> None:
    assert [about(n) for n in (3, 10, 11, 1843, 99_001)] == ["3", "10", "11", "1,900", "100,000"]


def pilot(name: str = "quick", lost: int = 8, gained: int = 5) -> Record:
    ratios = np.exp(np.array([0.01, 0.03, -0.01, 0.02, 0.0]))
    made = margin_record(name, ratios, lost, gained, 400)
    made.latency = make_record(batches=(1,)).latency
    made.stages = [Stage("measure", 60.0, False)]
    return made


def test_wished_widths_give_images_starts_and_seconds() -> None:
    record = pilot()
    drop, speedup = plan.wished([record_of("baseline"), make_failed(), record], 1.0, 0.01)
    assert (drop.figure, drop.unit) == ("drop", "images")
    assert drop.total is not None
    assert drop.total > 1000
    assert drop.more == drop.total - 400
    assert drop.seconds == pytest.approx(2 * drop.total * record.latency[0].mean_ms / 1e3)
    assert (speedup.figure, speedup.unit) == ("speedup at batch 1", "starts")
    assert speedup.total is not None
    assert speedup.total > 5
    assert speedup.pairs == speedup.total  # the pilot had a pair in each start
    scoring = 400 * record.latency[0].mean_ms / 1e3
    assert speedup.seconds == pytest.approx(speedup.total * (60 - scoring) / 5)


def test_one_start_is_no_pilot() -> None:
    record = pilot()
    record.speedup[0].start_ratios = [1.3]
    (need,) = plan.wished([record], None, 0.03)
    assert need.total is None
    assert need.why.startswith("the pilot has one start")


def test_command_without_a_wish_says_what_the_claims_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pilot().save(tmp_path)
    assert plan.main([str(tmp_path)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "at most 1" in output
    assert "For every drop: " in output
    assert "dataset.limit=" in output
    assert "For every speedup: " in output
    assert "of measuring, by the pilot's own times" in output


def test_command_refuses_a_folder_without_a_pilot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_of("baseline").save(tmp_path)
    assert plan.main([str(tmp_path)]) == 2
    assert "run a small sweep first" in capsys.readouterr().err
    assert plan.main([str(tmp_path / "nothing")]) == 2


@pytest.mark.parametrize("wrong", [["--speedup", "0"], ["--drop", "-1"], ["--speedup", "x%"]])
def test_command_refuses_a_wish_that_is_none(tmp_path: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        plan.main([str(tmp_path), *wrong])
