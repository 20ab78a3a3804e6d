import pytest
from record_factory import make_failed, make_record

from pqbench.core.errors import ConfigError
from pqbench.report.environments import environment_labels
from pqbench.report.filters import matching, without
from pqbench.report.load import newest
from pqbench.report.table import make_batch_table, make_table


def elsewhere(record, **libraries):
    record.environment = {
        "cpu": {"model": "Example CPU @ 2.10GHz", "cores": 2},
        "libraries": {"torch": "2.15.0", "openvino": "2026.1.0", **libraries},
    }
    return record


def test_labels_name_the_machine_and_what_differs():
    one, two = elsewhere(make_record()), elsewhere(make_record(), openvino="2026.4.1")
    same = elsewhere(make_record(backend="ort"), mlflow="9")  # not a cause of any figure
    labels = environment_labels([one, two, same])
    assert labels == [
        "Example CPU @ 2.10GHz, openvino 2026.1.0",
        "Example CPU @ 2.10GHz, openvino 2026.4.1",
        "Example CPU @ 2.10GHz, openvino 2026.1.0",
    ]
    assert environment_labels([one]) == ["Example CPU @ 2.10GHz"]


def test_newest_keeps_an_experiment_of_each_machine():
    here, there = make_record(), elsewhere(make_record(), torch="2.16.0")
    again = make_record(created="2026-11-25T10:00:00+00:00")
    assert newest([here, there, again]) == [again, there]


def test_a_library_that_some_lack_tells_nobody_apart():
    plain, more = elsewhere(make_record()), elsewhere(make_record(backend="ort"), timm="1.0.31")
    newer = elsewhere(make_record(backend="torch"), timm="1.0.40")
    again = elsewhere(make_record(created="2026-11-27T10:00:00+00:00"), timm="1.0.31")
    one, two = environment_labels([plain, more])
    assert one == two == "Example CPU @ 2.10GHz"
    assert newest([plain, again]) == [again]
    labels = environment_labels([more, newer, plain])
    assert labels[0] != labels[1]
    assert environment_labels([plain, newer, more]) == [labels[2], labels[1], labels[0]]


def test_environments_never_compete():
    base, fast = make_record(ms=6.0), make_record(recipe=("nncf_int8",), ms=3.0, speedup=2.0)
    assert any(c.best for c in make_table([base, fast]).cells[1])
    table = make_table([base, elsewhere(fast, torch="2.16.0")])
    assert "machine" in [c.name for c in table.columns]
    assert not any(c.best for line in table.cells for c in line)


def test_batch_table_has_a_column_per_batch_size():
    table = make_batch_table(
        [make_record(), make_record(recipe=("nncf_int8",), ms=3.0, speedup=2.0)]
    )
    headers = [c.header for c in table.columns if c.at]
    assert headers == [f"per sample [ms], batch {b}" for b in (1, 16, 64)]
    fast = table.cells[1][[c.name for c in table.columns].index("ms_per_sample_b16")]
    assert float(fast.text) == pytest.approx(6.0 * 16**0.93 / 16 / 2.1, rel=0.01)
    assert fast.best


def test_where_chooses_by_choice_configuration_and_pattern():
    records = [
        make_record(),
        make_record(recipe=("prune",)),
        make_record("resnet18", backend="ort"),
        make_failed("resnet18"),
    ]
    assert matching(records, ["model=mobilenetv3"]) == records[:2]
    assert matching(records, ["recipe!=prune", "backend=openvino,ort"]) == [records[0], records[2]]
    assert matching(records, ["model=res*", "status=ok"]) == [records[2]]
    assert matching(records, ["compress.prune.pruning_ratio=0.3"]) == [records[1]]
    assert matching(records, ["threads=2"]) == records


@pytest.mark.parametrize("condition", ["model", "=x", "modle=resnet18", "compress.prun.x=1"])
def test_where_refuses_what_cannot_be_meant(condition):
    with pytest.raises(ConfigError, match="--where"):
        matching([make_record()], [condition])


def test_where_that_fits_nothing_names_the_condition_and_what_there_is():
    records = [make_record(), make_record("resnet18")]
    with pytest.raises(ConfigError, match=r"model=alexnet fits none of 2 records.*resnet18"):
        matching(records, ["backend=openvino", "model=alexnet"])


def test_hide_leaves_out_statuses_but_no_results():
    records = [make_record(), make_failed(status="unsupported"), make_failed(status="oom")]
    assert [r.status for r in without(records, ["unsupported"])] == ["ok", "oom"]
    assert len(without(records, ["unsupported,oom"])) == 1
    for wrong in ("ok", "slow"):
        with pytest.raises(ConfigError, match=wrong):
            without(records, [wrong])
