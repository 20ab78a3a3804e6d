"""``search=best`` finds the answer of the whole sweep at a fraction of its cost, and says why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from race_world import BASE_MS, COST, Clocked, World, race
from record_factory import START_SPREAD, make_failed, make_record

from pqbench.app.arguments import prepare
from pqbench.app.entrant import Entrant
from pqbench.app.race import Race
from pqbench.app.race_run import FILE, RaceRun, seconds_of
from pqbench.core.errors import ConfigError
from pqbench.core.margins import Margins
from pqbench.core.record import NOT_BETTER, Faithfulness, Record
from pqbench.report.claims import judge
from pqbench.report.load import LOOKS, find_records


def test_race_refuses_a_reference_that_no_cell_runs_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reference=torhc: no experiment .* its backends are"):
        race(World(tmp_path, 0), margins=Margins(reference="torhc"))


def answers(world: World, entrants: Sequence[Entrant]) -> dict[str, float]:
    """True milliseconds of the fastest cell of each model that keeps its claims."""
    return {
        model: min(
            world.time_of(e) for e in entrants if e.holds and f"model={model}" in e.overrides
        )
        for model in world.models
    }


def exhaustive(folder: Path, seed: int) -> tuple[World, dict[str, float]]:
    """Everything measured in full and judged as a report does; true time of the answers."""
    world = World(folder, seed)
    cells = {tuple(job): world.record(job, "full") for job in world.jobs()}
    good = {id(cell.record) for cell in judge(list(cells.values())) if cell.answerable}
    kept = [
        Entrant(0, job, job[0], job[2].partition("=")[2], holds=True)
        for job, record in cells.items()
        if record.is_baseline or id(record) in good
    ]
    return world, answers(world, kept)


def test_race_finds_the_sweeps_answer_at_a_quarter_of_its_cost(tmp_path: Path) -> None:
    good, costs = 0, []
    for seed in range(5):
        world = World(tmp_path / str(seed), seed)
        assert len(world.jobs()) == 60
        run = race(world)
        run.run()
        whole, wanted = exhaustive(tmp_path / f"{seed} whole", seed)
        costs.append(world.cost_s / whole.cost_s)
        found = answers(world, run.race.entrants)
        # the same, or one that cannot be told from it: within 4 % of its time
        good += all(found[model] <= 1.04 * wanted[model] for model in world.models)
    assert good >= 4
    assert sum(costs) / len(costs) < 0.25


def test_race_judges_the_drop_on_its_bound_not_on_the_point(tmp_path: Path) -> None:
    world = World(tmp_path, 0, recipes=("r0",), models=("small",))
    for backend in BASE_MS:
        world.truth["small", "r0", backend] = (2.0, 0.009)  # within the margin, not shown to be
    run = race(world)
    run.run()
    quick = [e for e in run.race.entrants if "compress=r0" in e.overrides]
    assert all(not e.holds for e in quick)
    assert not any("loses more" in e.dropped for e in quick)


@pytest.mark.parametrize(
    ("backends", "reference"),
    [(("openvino", "torch"), "torch"), (("ort", "openvino"), "ort"), (("openvino",), None)],
)
def test_race_measures_what_runs_today_before_any_other_in_full(
    tmp_path: Path, backends: tuple[str, ...], reference: str | None
) -> None:
    world = World(tmp_path, 0, recipes=("r0", "r1"), models=("small",), backends=backends)
    for number, backend in enumerate(backends):
        world.truth["small", "r0", backend] = (2.0 + number, 0.0)
    race(world).run()
    in_full = [o for o in world.launched if not any("subdir" in part for part in o)]
    assert any("compress=r0" in overrides for overrides in in_full)
    if reference is not None:
        assert in_full[0] == ["model=small", "compress=none", f"backend={reference}"]
    assert len({tuple(overrides) for overrides in in_full}) == len(in_full)


def test_race_takes_no_runtime_of_another_precision_for_what_runs_today(tmp_path: Path) -> None:
    world = World(tmp_path, 0, recipes=("r0",), models=("small",), backends=("openvino", "ort"))
    compose = world.compose

    def in_bf16(job: list[str]) -> Any:
        config = compose(job)
        config.backend.precision = "bf16" if config.backend.name == "openvino" else "fp32"
        return config

    world.compose = in_bf16  # type: ignore[method-assign]
    for backend in world.backends:
        world.truth["small", "r0", backend] = (2.0, 0.0)
    race(world).run()
    in_full = [o for o in world.launched if not any("subdir" in part for part in o)]
    assert in_full[0] == ["model=small", "compress=none", "backend=ort"]


def test_race_drops_nobody_for_what_a_shortened_training_gave(tmp_path: Path) -> None:
    world = World(tmp_path, 0, recipes=("r0", "r1", "r2"), models=("small",))
    for backend in BASE_MS:
        world.truth["small", "r2", backend] = (4.0, 0.0)  # trains, and is by far the best
    run = race(world)
    run.run()
    winner = min((e for e in run.race.entrants if e.holds), key=world.time_of)
    assert "compress=r2" in winner.overrides
    shortened = [o for o in world.launched if "compress.r2.max_steps=1" in o]
    assert len(shortened) == len(BASE_MS)


def test_race_keeps_looks_out_of_reports_and_writes_its_trail(tmp_path: Path) -> None:
    world = World(tmp_path, 1, recipes=("r0", "r1"), models=("small",))
    run = race(world)
    run.run()
    full = [e for e in run.race.entrants if e.looks == 4]
    assert len(find_records(tmp_path)) == len(full) < len(world.jobs())
    assert len(find_records(tmp_path / LOOKS)) == len(world.launched) - len(full)
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["cells"] == 9 and kept["full"] == len(full) and kept["undecided"] == []
    fallen = [step for step in kept["trail"] if step["dropped"]]
    assert {step["cell"] for step in fallen} == {e.name for e in run.race.entrants if e.dropped}
    assert "9 cells" in run.lines()[0]


def test_race_chooses_the_same_again_and_stops_at_its_budget(tmp_path: Path) -> None:
    first, second = World(tmp_path / "a", 2), World(tmp_path / "b", 2)
    race(first).run()
    race(second).run()
    assert first.launched == second.launched
    third = World(tmp_path / "c", 2)
    stopped = race(third, budget_s=1e-9)
    stopped.run()
    assert not third.launched
    assert "60 not decided" in stopped.lines()[0]


def attempt(
    monkeypatch: pytest.MonkeyPatch,
    world: Clocked,
    budget_s: float = 1e9,
    before: Clocked | None = None,
    earlier: Sequence[Record] = (),
) -> RaceRun:
    """One attempt by the world's own clock, with what was trained before it."""
    monkeypatch.setattr("pqbench.app.race_run.time.monotonic", lambda: world.now_s)
    world.trained = set(before.trained) if before else set()
    run = race(world, budget_s=budget_s, earlier=earlier)
    run.run()
    return run


def test_race_goes_on_where_it_was_stopped_and_adds_its_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Clocked(tmp_path / "whole", 2, models=("small",))
    attempt(monkeypatch, whole)
    stopped = Clocked(tmp_path / "parts", 2, models=("small",), stop_after=40)
    with pytest.raises(KeyboardInterrupt):
        attempt(monkeypatch, stopped)
    kept = json.loads((stopped.folder / FILE).read_text())
    assert kept["spent_s"] == pytest.approx(stopped.now_s, abs=0.1)
    again = Clocked(tmp_path / "parts", 2, models=("small",))
    # records of its own looks lie in the cache by now, and must not change the order
    earlier = [record for record, _ in find_records(stopped.folder / LOOKS)]
    run = attempt(monkeypatch, again, before=stopped, earlier=earlier)
    assert again.launched == whole.launched
    assert [step.at_s for step in run.trail[:20]] == [s["at_s"] for s in kept["trail"][:20]]
    after_replay = again.now_s - 30 * COST["look 1"]  # the replayed first looks cost nothing
    assert kept["spent_s"] < run.spent_s < kept["spent_s"] + after_replay


def test_race_whose_budget_was_spent_keeps_its_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, more = (Clocked(tmp_path, 2, models=("small",)) for _ in range(3))
    attempt(monkeypatch, first, budget_s=200.0)
    kept = json.loads((tmp_path / FILE).read_text())
    attempt(monkeypatch, second, budget_s=200.0, before=first)
    assert second.launched == first.launched
    found = json.loads((tmp_path / FILE).read_text())
    assert found["trail"] == kept["trail"] and found["unseen"] == kept["unseen"]
    attempt(monkeypatch, more, budget_s=2000.0, before=first)
    assert more.launched[: len(first.launched)] == first.launched
    assert len(more.launched) > len(first.launched)


def test_race_takes_nothing_over_from_a_search_of_another_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(monkeypatch, Clocked(tmp_path, 2, models=("small",)), budget_s=200.0)
    other = Clocked(tmp_path, 2, models=("large",))
    run = attempt(monkeypatch, other, budget_s=10.0)
    assert len(other.launched) == 2 and run.spent_s < 20.0  # its own budget, from nothing


def test_race_leaves_half_of_its_budget_to_what_ends_in_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Clocked(tmp_path, 0, models=("small",))
    for backend in BASE_MS:
        world.truth["small", "r0", backend] = (3.0, 0.0)
    run = attempt(monkeypatch, world, budget_s=280.0)  # the first looks alone would take 150
    first = [o for o in world.launched if "protocol.score=false" in o]
    assert len(first) == 280 / 2 / COST["look 1"]
    assert any(e.holds for e in run.race.entrants)
    assert "no answer" not in run.lines()[0]
    none = Clocked(tmp_path / "none", 0, models=("small",))
    short = attempt(monkeypatch, none, budget_s=20.0)
    assert "so there is no answer yet: the same command with a larger" in short.lines()[0]


def test_race_refuses_several_numbers_of_threads(tmp_path: Path) -> None:
    world = World(tmp_path, 0, recipes=("r0",), models=("small",))
    compose = world.compose

    def with_threads(job: list[str]) -> Any:
        config = compose(job)
        config.threads = 1 if config.backend.name == "ort" else 2
        return config

    world.compose = with_threads  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="under the same number of threads"):
        race(world)


def test_race_looks_at_the_smallest_batch_size_that_is_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path, 0, recipes=("r0",), models=("small",))
    compose = world.compose

    def in_batches(job: list[str]) -> Any:
        config = compose(job)
        config.protocol = {"batch_sizes": [64, 32]}
        return config

    world.compose = in_batches  # type: ignore[method-assign]
    run = race(world)
    run.run()
    looks = [o for o in world.launched if any("subdir" in part for part in o)]
    assert looks and all("protocol.batch_sizes=[32]" in o for o in looks)
    assert run.race.claims == 3


def measured(speedup: float = 2.0, batches: tuple[int, ...] = (1,), **options: Any) -> Record:
    made = make_record("m", "ort", ("x",), ms=6 / speedup, speedup=speedup, batches=batches)
    assert made.accuracy and made.accuracy.against_baseline
    made.accuracy.count = options.get("count", 4000)
    made.accuracy.against_baseline.lost = options.get("lost", 1)
    made.accuracy.against_baseline.gained = 1
    return made


@pytest.mark.parametrize(("at_32", "holds"), [(2.0, True), (0.9, False)])
def test_race_asks_of_every_batch_size_whether_the_claims_hold(at_32: float, holds: bool) -> None:
    entrant = Entrant(0, ("compress=x",), "g", "ort")
    state = Race([entrant], 1, Margins(), claims=3)
    made = measured(batches=(1, 32))
    made.speedup[1].ratio = at_32
    made.speedup[1].start_ratios = [at_32 * r / 2.0 for r in made.speedup[1].start_ratios]
    state.tell(entrant, made)
    assert entrant.holds is holds


def test_race_holds_a_claim_only_where_a_report_of_all_cells_would() -> None:
    held = []
    for cells in (1, 400):
        entrants = [Entrant(i, (f"compress={i}",), "g", "ort") for i in range(cells)]
        state = Race(entrants, 1, Margins())
        made = measured()
        made.speedup[0].start_ratios = [1.01, 1.03, 1.02]  # p of one claim: about 0.02
        made.speedup[0].ratio = 1.02
        state.tell(entrants[0], made)
        held.append(entrants[0].holds)
    assert held == [True, False]


def test_race_drops_no_model_for_what_too_few_samples_could_not_show() -> None:
    for limit, dropped in ((500, False), (None, True)):
        entrant = Entrant(0, ("compress=x",), "g", "ort", looks=1)
        state = Race([entrant], 4, Margins())
        made = measured(count=500)
        made.config["protocol"]["score_limit"] = limit
        assert made.accuracy
        made.accuracy.faithfulness = Faithfulness(
            "a", 0.5, "a", 0.69, 0.7, faults=[f"{NOT_BETTER} than always answering 'a' (69.0%)"]
        )
        state.tell(entrant, made)
        assert bool(entrant.dropped) is dropped


def test_race_takes_no_uncompressed_model_of_another_precision_for_lossless() -> None:
    for in_fp32 in (True, False):
        torch = Entrant(0, ("compress=none", "backend=torch"), "g", "torch", plain=True)
        other = Entrant(
            1, ("compress=none", "backend=b"), "g", "b", plain=True, in_fp32=in_fp32
        )  # fmt: skip
        state = Race([torch, other], 1, Margins())
        state.tell(torch, make_record("m", "torch", ms=9, batches=(1,)))
        state.tell(other, make_record("m", "b", ms=3, batches=(1,)))
        assert other.holds is in_fp32 and not torch.holds


def test_race_asks_for_so_many_times_as_fast_as_what_runs_today() -> None:
    """1.8 times as fast as an FP32 that is itself three times as fast as PyTorch's is 5.4 times."""
    plain = [
        Entrant(i, ("compress=none", f"backend={b}"), "g", b, plain=True)
        for i, b in enumerate(("torch", "openvino"))
    ]
    fast = Entrant(2, ("compress=x", "backend=openvino"), "g", "openvino")
    slow = Entrant(3, ("compress=x", "backend=torch"), "g", "torch")
    state = Race([*plain, fast, slow], 1, Margins(min_speedup=2.0))
    for entrant, ms in zip(plain, (9.0, 3.0), strict=True):
        state.tell(entrant, make_record("m", entrant.backend, ms=ms, batches=(1,)))
    for entrant, ms in ((fast, 3.0), (slow, 9.0)):
        made = measured(1.8)
        made.speedup[0].baseline_p50_ms = ms
        state.tell(entrant, made)
    state.settle()
    assert fast.holds and not fast.dropped
    assert not slow.holds and slow.dropped.startswith("slower than 2 times FP32 on its runtime")


def test_race_drops_what_is_slower_than_what_runs_today() -> None:
    torch = Entrant(0, ("compress=none", "backend=torch"), "g", "torch", plain=True)
    cell = Entrant(1, ("compress=x", "backend=b"), "g", "b")
    state = Race([torch, cell], 2, Margins())
    state.tell(torch, make_record("m", "torch", ms=3, batches=(1,)))
    made = measured(1.5)
    made.speedup[0].baseline_p50_ms = 9.0
    state.tell(cell, made)
    assert state.settle() == [cell]
    assert "times as fast as what runs today, compress=none backend=torch" in cell.dropped


def test_race_drops_what_is_slower_than_fp32_on_any_runtime_before_it_is_scored() -> None:
    torch = Entrant(0, ("compress=none", "backend=torch"), "g", "torch", plain=True)
    other = Entrant(1, ("compress=none", "backend=b"), "g", "b", plain=True)
    cell = Entrant(2, ("compress=x", "backend=torch"), "g", "torch")
    for in_fp32, dropped in ((True, [torch, cell]), (False, [])):
        torch.dropped = cell.dropped = ""
        other.in_fp32 = in_fp32
        state = Race([torch, other, cell], 2, Margins())
        state.tell(torch, make_record("m", "torch", ms=9, batches=(1,)), look=0)
        state.tell(other, make_record("m", "b", ms=3, batches=(1,)), look=0)
        made = measured(1.5)
        made.speedup[0].baseline_p50_ms = 9.0
        state.tell(cell, made, look=0)
        assert state.settle() == dropped
    assert cell.dropped == ""


def test_race_measures_what_runs_today_first_where_several_look_at_once() -> None:
    plain = Entrant(0, ("compress=none",), "g", "torch", plain=True, looks=1)
    leader = Entrant(1, ("compress=x",), "g", "torch", looks=2)
    state = Race([plain, leader], 3, Margins())
    state.tell(plain, make_record("m", "torch", ms=9, batches=(1,)), look=0)
    assert state.references([leader, plain]) == [plain]
    plain.looks = 2
    assert state.references([leader, plain]) == []  # its own look is the full one


def test_race_looks_first_at_what_was_fast_before(tmp_path: Path) -> None:
    world = World(tmp_path, 3, recipes=("r0", "r1"), models=("small",))
    earlier = [make_record("small", "ort", ("r1",), ms=0.5), make_record("small", "ort", (), ms=4)]
    run = race(world, earlier=earlier)
    run.run()
    assert world.launched[0][:3] == ["model=small", "compress=r1", "backend=ort"]
    assert world.launched[1][:3] == ["model=small", "compress=none", "backend=ort"]


def test_race_tells_what_has_no_result() -> None:
    entrants = [Entrant(0, ("a",), "g", "ort"), Entrant(1, ("b",), "g", "ort")]
    state = Race(entrants, 3, Margins())
    state.tell(entrants[0], make_failed())
    state.tell(entrants[1], None)
    assert entrants[0].dropped.startswith("unavailable: TensorRT needs an NVIDIA GPU")
    assert entrants[1].dropped == "failed: no record"
    assert state.next(2) == []


def test_race_drops_what_is_slower_than_a_cell_that_keeps_its_claims() -> None:
    entrants = [Entrant(i, (f"compress={n}",), "g", "ort") for i, n in enumerate("abc")]
    state = Race(entrants, 1, Margins())
    for entrant, speed in zip(entrants, (3.0, 1.5, 2.95), strict=True):
        made = make_record("m", "ort", ("x",), ms=6 / speed, speedup=speed, batches=(1,))
        assert made.accuracy and made.accuracy.against_baseline and len(START_SPREAD) > 2
        made.accuracy.count = 4000
        made.accuracy.against_baseline.lost = made.accuracy.against_baseline.gained = 1
        state.tell(entrant, made)
    for entrant in entrants[1:]:
        entrant.holds, entrant.looks = False, 0
    assert [e.number for e in state.settle()] == [1, 2]
    assert "2.00 times the time of compress=a" in entrants[1].dropped
    assert entrants[0].holds and not entrants[0].dropped


def test_race_scores_no_cell_at_first_and_none_that_is_far_too_slow(tmp_path: Path) -> None:
    world = World(tmp_path, 0, recipes=("r0", "r1"), models=("small",))
    for backend in BASE_MS:
        world.truth["small", "r0", backend] = (4.0, 0.0)
        world.truth["small", "r1", backend] = (0.5, 0.0)
    run = race(world)
    run.run()
    first = [o for o in world.launched if "protocol.score=false" in o]
    assert len(first) == len(world.jobs())
    slow = [o for o in world.launched if "compress=r1" in o]
    assert len(slow) == len(BASE_MS)  # one look each
    assert all("protocol.score=false" in o for o in slow)


@pytest.mark.parametrize(
    ("count", "limit", "somebody_holds", "look"),
    [
        (300, 500, False, 3),  # all that there are: the full measurement is next
        (500, 500, False, 2),
        (300, 500, True, 2),  # its time is compared more closely first
        (300, None, False, 3),
    ],
)
def test_race_leader_that_was_scored_on_all_samples_is_not_scored_again_before_the_last_look(
    count: int, limit: int | None, somebody_holds: bool, look: int
) -> None:
    entrants = [Entrant(i, (f"compress={n}",), "g", "ort", looks=1) for i, n in enumerate("ab")]
    entrants[1].holds = somebody_holds
    state = Race(entrants, 4, Margins())
    made = make_record("m", "ort", ("x",), ms=3, speedup=2.0, batches=(1,))
    assert made.accuracy and made.accuracy.against_baseline
    made.accuracy.count, made.config["protocol"]["score_limit"] = count, limit
    made.accuracy.against_baseline.lost = made.accuracy.against_baseline.gained = 1
    state.tell(entrants[0], made)
    assert state.upcoming(entrants[0]) == look


def test_race_trusts_one_start_less_than_two_and_a_disturbed_look_least() -> None:
    errors = []
    for starts, disturbed in (([2.0], False), ([2.0, 2.0], False), ([2.0, 2.0], True)):
        entrant = Entrant(0, ("a",), "g", "ort")
        state = Race([entrant], 3, Margins())
        made = make_record("m", "ort", ("x",), ms=3, speedup=2.0, batches=(1,))
        made.speedup[0].start_ratios, made.speedup[0].disturbed = starts, disturbed
        state.tell(entrant, made)
        assert entrant.pace is not None
        errors.append(entrant.pace.error)
    assert errors[1] < errors[0] < errors[2]


@pytest.mark.parametrize("text, seconds", [("90s", 90), ("30m", 1800), ("1.5h", 5400)])
def test_budget_is_read_in_seconds_minutes_hours(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "-3m", "0m", "3 weeks", ""])
def test_budget_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write it as 90s, 30m or 2h"):
        seconds_of(text)


def test_budget_beside_search_best_goes_to_the_sweeper() -> None:
    assert prepare(["search=best", "budget=30m"]) == [
        "-m", "search=best", "hydra.sweeper.budget=30m",
    ]  # fmt: skip
