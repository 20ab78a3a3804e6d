import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from record_factory import make_failed, make_record

from pqbench import compare, reproduce
from pqbench.core.record import Record
from pqbench.experiment.config import fingerprint
from pqbench.report.between_runs import Spread, spread_of
from pqbench.report.regression import Allowances, adjusted, figures


def save(record, folder):
    folder.mkdir(parents=True)
    return record.save(folder)


def candidate(**values):
    return make_record(recipe=("nncf_int8",), **{"speedup": 1.9, "ms": 3.0, **values})


@pytest.mark.parametrize(
    ("values", "code", "named"),
    [
        ({}, 0, None),
        ({"ms": 3.08, "speedup": 1.88}, 0, None),
        ({"speedup": 1.4}, 1, "speedup at batch 1"),
        ({"ms": 3.6}, 0, None),  # one run each: a median alone does not tell 20 %
        ({"ms": 6.0}, 1, "median latency at batch 1"),
        ({"top1": 0.7}, 1, "top-1"),
        ({"size_mb": 30.0}, 1, "size of the files"),
        ({"ms": 2.0, "speedup": 2.9, "size_mb": 9.0}, 0, "better"),
    ],
)
def test_compare_exit_code_tells_what_got_worse(values, code, named, tmp_path, capsys):
    a = save(candidate(), tmp_path / "a")
    b = save(candidate(**values), tmp_path / "b")
    assert compare.main([str(a), str(b)]) == code
    out = " ".join(capsys.readouterr().out.split())
    assert named is None or named.split()[0] in out
    assert ("0 worse" in out) == (code == 0)


def test_compare_does_not_judge_what_is_disturbed(tmp_path, capsys):
    worse = candidate(speedup=1.0)
    for speedup in worse.speedup:
        speedup.disturbed = True
    a, b = save(candidate(), tmp_path / "a"), save(worse, tmp_path / "b")
    assert compare.main([str(a), str(b)]) == 0
    assert "3 not to be trusted" in capsys.readouterr().out


def test_compare_lost_result_is_a_regression(tmp_path, capsys):
    save(make_record(), tmp_path / "a" / "0")
    save(candidate(), tmp_path / "a" / "1")
    save(make_record(), tmp_path / "b" / "0")
    save(make_failed("mobilenetv3", "openvino", ("nncf_int8",)), tmp_path / "b" / "1")
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "in B unavailable" in capsys.readouterr().out


def test_compare_refuses_other_machines_and_nothing_in_common(tmp_path, capsys):
    other = candidate()
    other.environment = {"cpu": {"model": "Another CPU"}}
    a, b = save(candidate(), tmp_path / "a"), save(other, tmp_path / "b")
    assert compare.main([str(a), str(b)]) == 2
    assert "Another CPU" in capsys.readouterr().err
    assert compare.main([str(a), str(b), "--across"]) == 0
    save(make_record("resnet18"), tmp_path / "c" / "0")
    save(make_record("resnet50"), tmp_path / "c" / "1")
    assert compare.main([str(a), str(tmp_path / "c")]) == 2
    assert compare.main([str(a), str(tmp_path / "nowhere")]) == 2


def test_compare_takes_two_records_of_any_experiments(tmp_path, capsys):
    a = save(make_record("resnet18", "ort"), tmp_path / "a")
    b = save(candidate(backend="openvino"), tmp_path / "b")
    compare.main([str(a), str(b), "--all"])
    out = " ".join(capsys.readouterr().out.split())
    assert "resnet18 · none · ort · elpv val -> mobilenetv3 · nncf_int8 · openvino" in out
    assert "median latency" in out
    assert "speedup at" not in out  # over another model on another runtime


def predictions(folder, wrong):
    """A record of 400 samples, of which those in ``wrong`` are answered wrongly."""
    record = candidate()
    table = pd.DataFrame({"source": [f"{i:064d}" for i in range(400)], "label": 1})
    table["prediction"] = [0 if i in wrong else 1 for i in range(400)]
    record.files = {"predictions": "predictions.parquet"}
    record.accuracy.top1 = 1 - len(wrong) / 400
    record.accuracy.top1_low, record.accuracy.top1_high = 0.9, 1.0  # too wide to tell anything
    path = save(record, folder)
    table.to_parquet(folder / "predictions.parquet")
    return path


def test_compare_pairs_predictions_on_the_same_samples(tmp_path, capsys):
    a = predictions(tmp_path / "a", set())
    b = predictions(tmp_path / "b", set(range(12)))  # 3 points, all of them lost
    assert compare.main([str(a), str(b), "--all"]) == 1
    assert "worse" in capsys.readouterr().out
    assert compare.main([str(a), str(b), "--accuracy-pt", "3"]) == 0
    even = predictions(tmp_path / "c", set(range(12, 24)))
    assert compare.main([str(b), str(even)]) == 0  # as many gained as lost
    (tmp_path / "c" / "predictions.parquet").unlink()
    capsys.readouterr()
    compare.main([str(b), str(even)])
    assert "predictions are not of the same samples" in capsys.readouterr().out


def test_compare_minds_only_libraries_that_both_have(tmp_path):
    def with_libraries(folder, **libraries):
        record = candidate()
        record.environment = {"cpu": {"model": "One CPU"}, "libraries": libraries}
        return str(save(record, folder))

    plain = with_libraries(tmp_path / "a", torch="2.15.0")
    more = with_libraries(tmp_path / "b", torch="2.15.0", timm="1.0.31")
    other = with_libraries(tmp_path / "c", torch="2.16.0")
    assert compare.main([plain, more]) == 0
    assert compare.main([plain, other]) == 2


def test_record_knows_that_it_was_altered(tmp_path):
    path = save(candidate(), tmp_path / "a")
    assert not Record.load(path).altered
    value = json.loads(path.read_text())
    value["latency"][0]["p50_ms"] *= 0.5
    path.write_text(json.dumps(value))
    assert Record.load(path).altered
    del value["digest"]
    path.write_text(json.dumps(value))
    assert not Record.load(path).altered  # an earlier version's record cannot tell


def real(record):
    """With a fingerprint that its configuration has."""
    return dataclasses.replace(record, fingerprint=fingerprint(record.config))


def test_reproduce_check_tells_an_altered_record(tmp_path, capsys):
    path = save(real(candidate()), tmp_path / "a")
    assert reproduce.main([str(path), "--check"]) == 0
    assert "is as it was written" in capsys.readouterr().out
    value = json.loads(path.read_text())
    value["config"]["seed"] = 7
    value["latency"][0]["p50_ms"] *= 0.5
    path.write_text(json.dumps(value))
    assert reproduce.main([str(path), "--check"]) == 1
    out = capsys.readouterr().out
    assert "digest does not fit" in out
    assert "fingerprint" in out
    assert "contradict" in out


def test_reproduce_check_reads_only_the_environment_that_is_named(tmp_path, capsys, monkeypatch):
    record = candidate()
    record.config["model"]["weights_file"] = "/data/w.pth"
    record = real(record)
    record.config["model"]["weights_file"] = "${oc.env:THE_DATA}/w.pth"
    path = save(record, tmp_path / "a")
    monkeypatch.setenv("THE_DATA", "/data")
    assert reproduce.main([str(path), "--check"]) == 0
    assert "add --env THE_DATA" in capsys.readouterr().out
    assert reproduce.main([str(path), "--check", "--env", "THE_DATA"]) == 0
    assert "is as it was written" in capsys.readouterr().out
    monkeypatch.setenv("THE_DATA", "/another")
    assert reproduce.main([str(path), "--check", "--env", "THE_DATA"]) == 1
    assert "fingerprint" in capsys.readouterr().out


def test_reproduce_lock_prefers_everything_that_was_installed(tmp_path, capsys):
    record = real(candidate())
    path = save(record, tmp_path / "a")
    assert reproduce.main([str(path), "--lock"]) == 0
    assert "openvino==2026.1.0" in capsys.readouterr().out
    record.files["lock"] = "requirements.txt"
    (tmp_path / "a" / "requirements.txt").write_text("some-package==1.2\n")
    record.save(tmp_path / "a")
    assert reproduce.main([str(path), "--lock"]) == 0
    assert capsys.readouterr().out == "some-package==1.2\n"


def test_reproduce_verdict_follows_the_figures(capsys):
    allowances = Allowances()
    assert reproduce.verdict(candidate(), candidate(ms=3.05), allowances, altered=False) == 0
    assert "agree within their intervals" in capsys.readouterr().out
    assert reproduce.verdict(candidate(), candidate(), allowances, altered=True) == 1
    assert reproduce.verdict(candidate(), candidate(speedup=1.2), allowances, altered=False) == 1
    assert "do not agree: speedup at batch 1" in capsys.readouterr().out
    assert reproduce.verdict(candidate(), make_failed(), allowances, altered=False) == 2


def test_reproduce_without_a_usable_record(tmp_path, capsys):
    assert reproduce.main([str(tmp_path / "record.json")]) == 2
    path = save(candidate(), tmp_path / "a")  # a test's configuration is not a whole one
    assert reproduce.main([str(path), "--outputs", str(tmp_path / "out")]) == 2
    assert "error:" in capsys.readouterr().err


def sweep_of_one_program(seed, deviation, slower=1.0):
    """A baseline and five candidates; each run's medians are off by a factor of its own."""
    rng = np.random.default_rng(seed)
    records = [make_record(ms=6.0 * np.exp(rng.normal(0, deviation)), batches=(1,))]
    for step in range(5):
        run = np.exp(rng.normal(0, deviation))
        ms = 3.0 * run * slower
        record = make_record(recipe=(f"step{step}",), ms=ms, speedup=2.0, batches=(1,))
        record.speedup[0].baseline_p50_ms = 6.0 * run
        records.append(record)
    return records


def latencies(before, after, spread):
    pairs = zip(before, after, strict=True)
    found = [f for old, new in pairs for f in figures(old, new, Allowances(), spread)]
    return [f.verdict for f in adjusted(found) if "latency" in f.name]


def test_medians_of_one_program_are_not_called_better_or_worse():
    accused, accused_by_intervals_alone = 0, 0
    for seed in range(40):
        before = sweep_of_one_program(2 * seed, 0.06)
        after = sweep_of_one_program(2 * seed + 1, 0.06)
        spread = spread_of([before, after])
        accused += any(v != "agrees" for v in latencies(before, after, spread))
        alone = latencies(before, after, Spread(1e-6, 1e6))
        accused_by_intervals_alone += any(v != "agrees" for v in alone)
    assert accused <= 4  # of 40 pairs of sweeps, 6 medians each
    assert accused_by_intervals_alone > 20


def test_medians_that_all_changed_are_told_where_runs_hardly_vary():
    before, after = (
        sweep_of_one_program(seed, 0.01, slower) for seed, slower in ((0, 1), (1, 1.4))
    )
    spread = spread_of([before, after])
    assert 0.01 < spread.deviation < 0.05
    assert spread.dof == 14  # ten repetitions and what is usual
    assert latencies(before, after, spread)[1:] == ["worse"] * 5


def test_speedup_of_one_start_is_not_judged(tmp_path, capsys):
    paths = []
    for name, speedup in (("a", 1.9), ("b", 1.2)):
        record = candidate(speedup=speedup)
        for gain in record.speedup:
            gain.start_ratios = [gain.ratio]
        paths.append(str(save(record, tmp_path / name)))
    assert compare.main(paths) == 0
    out = capsys.readouterr().out
    assert "3 not to be trusted" in out
    assert "one start decides nothing" in " ".join(out.split())
