"""The answer: one sentence that the records support, or why there is none."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from record_factory import make_failed, make_record

from pqbench.core.margins import Margins
from pqbench.core.record import AgainstBaseline, Faithfulness, Pairing, Record, Speedup
from pqbench.report.answer import Answer, answers, finalists, lines, to_plain
from pqbench.report.pairings import FILE, FOLDER, load_pairings
from pqbench.report.write import write_report

FAST = (1.99, 2.0, 2.01, 2.0, 2.0)


def against(lost: int, gained: int, count: int) -> AgainstBaseline:
    drop = 100 * (lost - gained) / count
    return AgainstBaseline(drop, drop - 1, drop + 1, None, 0.9, lost=lost, gained=gained)


def ratio(starts: Sequence[float]) -> Speedup:
    mean = math.exp(float(np.mean(np.log(starts))))
    return Speedup(1, mean, mean, mean, 12, 0, False, 5.0, list(starts))


def cell(
    recipe: str = "",
    backend: str = "ort",
    starts: Sequence[float] = FAST,
    lost: int = 3,
    gained: int = 3,
    count: int = 2000,
) -> Record:
    made = make_record(backend=backend, recipe=(recipe,) if recipe else (), batches=(1,))
    made.identity = f"{backend}-{recipe}"
    if recipe:
        assert made.accuracy is not None
        made.accuracy.count = count
        made.accuracy.against_baseline = against(lost, gained, count)
        made.speedup = [ratio(starts)]
    return made


def paired(candidate: Record, reference: Record, starts: Sequence[float]) -> Pairing:
    return Pairing(
        candidate.fingerprint,
        reference.fingerprint,
        [candidate.identity, reference.identity],
        [ratio(starts)],
        against(3, 3, 2000),
    )


def only(records: Sequence[Record], pairings: Sequence[Pairing] = ()) -> Answer:
    (found,) = answers(records, pairings)
    return found


def test_answer_names_the_cell_whose_claims_hold_with_its_bounds() -> None:
    found = only([cell(), cell("nncf_int8"), cell("ort_int8", starts=(1.2, 1.21, 1.19, 1.2, 1.2))])
    assert found.best is not None
    assert found.best.record.experiment.recipe == ["nncf_int8"]
    assert "nncf_int8 on ONNX Runtime" in found.sentence
    assert "1.9" in found.sentence  # a lower bound, below the estimate of 2
    assert "points lost (95%, all claims together)" in found.sentence
    assert any("ort_int8" in other and "slower" in other for other in found.others)


def test_answer_never_names_a_model_that_lost_a_class() -> None:
    broken = cell("nncf_int8")
    assert broken.accuracy is not None
    broken.accuracy.faithfulness = Faithfulness(
        "functional", 0.99, "functional", 0.69, 0.5, faults=["answers one class"]
    )
    found = only([cell(), broken])
    assert found.best is None
    assert found.sentence.startswith("Stay with FP32 on ONNX Runtime")
    assert "stopped working" in found.sentence
    assert any("answers one class" in other for other in found.others)


def test_answer_is_to_stay_where_nothing_holds_and_says_what_would_decide() -> None:
    slow = cell("prune", starts=(0.8, 0.81, 0.79, 0.8, 0.8))
    unsure = cell("ort_int8", lost=6, gained=4, count=400)
    unsure.config["dataset"]["limit"] = 400
    found = only([cell(), slow, unsure])
    assert found.best is None
    assert "1 of 2 too slow" in found.sentence
    assert "1 of 2 undecided" in found.sentence
    assert "dataset.limit=null" in found.surer
    assert "min" in found.surer


def test_equal_cells_are_named_and_not_ranked() -> None:
    twin = cell("ort_int8", starts=(1.98, 2.02, 2.0, 1.99, 2.01))
    found = only([cell(), cell("nncf_int8"), twin])
    assert len(found.equals) == 1
    assert "Not to be told from it" in "\n".join(lines(found))


def test_reference_decides_across_runtimes_and_fp32_on_another_may_be_the_answer() -> None:
    torch, ort = cell(backend="torch"), cell(backend="ort")
    slow = cell("ort_int8", starts=(0.9, 0.91, 0.9, 0.89, 0.9))
    found = only([torch, ort, slow], [paired(ort, torch, (3.0, 3.01, 2.99, 3.0, 3.0))])
    assert found.best is not None
    assert found.best.name == "FP32 on ONNX Runtime"
    assert "as fast as PyTorch in FP32" in found.sentence
    quick = cell("ort_int8")
    pairings = [
        paired(ort, torch, (3.0, 3.01, 2.99, 3.0, 3.0)),
        paired(quick, torch, (6.0, 6.01, 5.99, 6.0, 6.0)),
    ]
    found = only([torch, ort, quick], pairings)
    assert found.best is not None
    assert found.best.name == "ort_int8 on ONNX Runtime"
    assert "same runtime and 5.9" in found.sentence


def test_plain_model_with_the_same_answers_on_another_runtime_loses_nothing() -> None:
    torch, ort = cell(backend="torch"), cell(backend="ort")
    assert ort.accuracy is not None
    ort.accuracy.count = 320
    made = paired(ort, torch, (3.0, 3.01, 2.99, 3.0, 3.0))
    made.against = dataclasses.replace(against(0, 0, 320), agreement=1.0)
    found = only([torch, ort], [made])
    assert found.best is not None
    assert "the same answer to every sample" in found.sentence
    made.against = dataclasses.replace(against(1, 0, 320), agreement=319 / 320)
    assert only([torch, ort], [made]).best is None  # 320 samples are too few for a point


def test_finalists_are_the_plain_model_and_the_best_of_each_other_runtime() -> None:
    torch, ort = cell(backend="torch"), cell(backend="ort")
    quick, slow = cell("nncf_int8"), cell("ort_int8", starts=(1.1, 1.11, 1.1, 1.09, 1.1))
    pairs = finalists([torch, ort, quick, slow], Margins())
    assert [(a.fingerprint, b.fingerprint) for a, b in pairs] == [
        (ort.fingerprint, torch.fingerprint),
        (quick.fingerprint, torch.fingerprint),
    ]


def test_so_many_times_as_fast_is_asked_beside_the_reference_of_another_runtime() -> None:
    torch, ort = cell(backend="torch"), cell(backend="ort")
    quick = cell("nncf_int8", starts=(1.8, 1.81, 1.8, 1.79, 1.8))
    margins = Margins(min_speedup=2.0)
    assert quick in [found for found, _ in finalists([torch, ort, quick], margins)]
    pairings = [paired(quick, torch, (5.4, 5.41, 5.4, 5.39, 5.4))]
    (found,) = answers([torch, ort, quick], pairings, margins)
    assert found.best is not None and found.best.record is quick
    assert "1.7" in found.sentence and "5.3" in found.sentence


def test_without_pytorch_the_runtime_measured_first_is_the_reference() -> None:
    ort, openvino = cell(backend="ort"), cell(backend="openvino")
    ort.sequence, openvino.sequence = 2, 5
    bf16 = cell(backend="openvino_bf16")
    bf16.config["backend"]["precision"], bf16.sequence = "bf16", 1
    here, there = cell("ort_int8"), cell("nncf_int8", backend="openvino")
    records = [openvino, bf16, ort, here, there]
    assert [b.identity for _, b in finalists(records, Margins())] == [ort.identity] * 3
    assert finalists([openvino, there], Margins()) == []  # one runtime: its own FP32 is beside it
    assert finalists(records, Margins(reference="torch")) == []
    pairings = [paired(there, ort, (1.5, 1.51, 1.5, 1.49, 1.5))]
    found = only(records, pairings)
    assert found.best is not None and found.best.name == "ort_int8 on ONNX Runtime"
    assert "nncf_int8 on OpenVINO: slower than ort_int8 on ONNX Runtime" in found.others


def test_own_ratios_of_two_runtimes_rank_nothing() -> None:
    """INT8 that is faster than a slow FP32 need not be fast."""
    here, there = cell("ort_int8"), cell("nncf_int8", backend="openvino", starts=(4, 4.01, 4, 4, 4))
    found = only([cell(), cell(backend="openvino"), here, there])
    assert found.best is not None
    assert {found.best.name, *(f.name for f in found.equals)} == {
        "ort_int8 on ONNX Runtime",
        "nncf_int8 on OpenVINO",
    }


def test_candidate_that_was_not_timed_beside_the_reference_is_not_called_slower() -> None:
    torch, ort, openvino = (cell(backend=b) for b in ("torch", "ort", "openvino"))
    here, there = cell("ort_int8"), cell("nncf_int8", backend="openvino")
    found = only([torch, ort, openvino, here, there], [paired(here, torch, FAST)])
    assert found.best is not None and found.best.name == "ort_int8 on ONNX Runtime"
    assert "nncf_int8 on OpenVINO: not timed beside the reference" in found.others


def test_answer_names_the_precision_that_its_runtime_was_compared_in() -> None:
    plain, quick = cell(backend="openvino_bf16"), cell("nncf_int8", backend="openvino_bf16")
    for record in (plain, quick):
        record.config["backend"]["precision"] = "bf16"
    found = only([plain, quick])
    assert "as fast as BF16 on the same runtime" in found.sentence
    assert "FP32" not in found.sentence
    slow = only([plain, cell("nncf_int8", backend="openvino_bf16", starts=(0.8, 0.81, 0.8))])
    assert slow.sentence.startswith("Stay with BF16 on OpenVINO (BF16)")
    there = cell(backend="ort")
    asked = answers(
        [plain, there], [paired(there, plain, FAST)], Margins(5, reference="openvino_bf16")
    )
    assert "as fast as OpenVINO (BF16) in BF16" in asked[0].sentence
    torch = cell(backend="torch")
    named = only([torch, plain, quick], [paired(plain, torch, (0.9, 0.91, 0.9, 0.89, 0.9))])
    assert any(line.startswith("uncompressed on OpenVINO (BF16)") for line in named.others)


def test_answer_is_in_every_format_and_first(tmp_path: Path) -> None:
    records = [cell(), cell("nncf_int8"), make_failed()]
    found = answers(records)
    write_report(records, tmp_path, plots=False, answered=found)
    sentence = found[0].sentence
    value = json.loads((tmp_path / "answer.json").read_text())
    assert value["answer"]["recipe"] == ["nncf_int8"]
    assert value == to_plain(found)
    assert (tmp_path / "table.md").read_text().startswith("**")
    assert "NNCF INT8 on ONNX Runtime" in (tmp_path / "answer.tex").read_text()
    assert sentence.split(";")[0] in (tmp_path / "report.html").read_text()
    assert r"\input{answer}" in (tmp_path / "report.tex").read_text()


def test_answer_in_latex_says_what_is_lacking_without_a_command(tmp_path: Path) -> None:
    unsure = cell("ort_int8", lost=6, gained=4, count=400)
    unsure.config["dataset"]["limit"] = 400
    found = answers([cell(), unsure])
    write_report([cell(), unsure], tmp_path, plots=False, answered=found)
    assert "python -m pqbench" in (tmp_path / "answer.md").read_text()
    text = (tmp_path / "answer.tex").read_text()
    assert "Not decided for want of data: ORT INT8 on ONNX Runtime lacks about" in text
    assert "pqbench" not in text
    assert "limit" not in text


def test_pairing_of_another_time_is_not_used(tmp_path: Path) -> None:
    torch, ort = cell(backend="torch"), cell(backend="ort")
    made = paired(ort, torch, FAST)
    folder = tmp_path / FOLDER / ort.fingerprint
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps(dataclasses.asdict(made)))
    assert load_pairings(tmp_path, [torch, ort]) == [made]
    ort.identity = "measured again"
    assert load_pairings(tmp_path, [torch, ort]) == []


def test_search_that_kept_one_fp32_model_answers_to_stay_with_it() -> None:
    alone = [make_record(backend="ort")]
    assert answers(alone) == []
    (found,) = answers(alone, unseen=0)
    assert found.best is None
    assert found.sentence.startswith("Stay with FP32 on ONNX Runtime")
