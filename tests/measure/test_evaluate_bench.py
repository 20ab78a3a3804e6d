"""The benchmark of scoring against bare calls runs and says what it found."""

from __future__ import annotations

import re
import sys

import evaluate
import pytest


@pytest.mark.parametrize(
    ("more", "target"), [([], evaluate.TARGET), (["--int8"], evaluate.TARGET_INT8)]
)
def test_evaluate_bench_prints_both_rates_and_judges_their_ratio(
    more: list[str],
    target: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["--model", "cnn", "--dataset", "synthetic", "--limit", "10", "--batch-size", "4"]
    monkeypatch.setattr(
        sys, "argv", ["evaluate.py", *small, *more, "--rounds", "2", "--threads", "1"]
    )
    code = evaluate.main()
    output = capsys.readouterr().out
    assert output.splitlines()[-4].startswith("cnn on ort, 10 samples, batch 4")
    found = {n: float(v) for n, v in re.findall(r"(bare|evaluation|ratio) +([\d.]+)", output)}
    assert set(found) == {"bare", "evaluation", "ratio"}
    assert min(found.values()) > 0
    assert code == (0 if found["ratio"] >= target else 1)
