"""What a thesis takes from a report beside the tables: settings, methods with citations, BibTeX."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from record_factory import make_failed, make_record, make_sweep
from version_1 import FOLDER as VERSION_1

from pqbench.core.record import Record
from pqbench.report import references
from pqbench.report.settings import settings
from pqbench.report.write import write_report

ROOT = Path(__file__).parents[2]


def values(records: list[Record]) -> dict[tuple[str, str], str]:
    return {(x.step, x.name): x.value for x in settings(records)}


def test_settings_hold_what_decided_the_result() -> None:
    found = values(make_sweep())
    assert found["prune", "pruning_ratio"] == "0.3"
    assert found["prune", "criterion"] == "taylor"
    assert found["finetune", "epochs"] == "4"
    assert found["finetune", "learning_rate"] == "0.001"
    assert found["ort_int8", "method"] == "minmax"
    assert found["measurement", "batch_sizes"] == "1, 16, 64"
    assert found["backend openvino", "precision"] == "f32"
    assert not any("_target_" in name for _, name in found)


def test_setting_that_differs_says_where() -> None:
    records = [
        make_record(model, recipe=("prune",), steps={"prune": {"pruning_ratio": ratio}})
        for model, ratio in (("resnet18", 0.3), ("resnet50", 0.5))
    ]
    assert values(records)["prune", "pruning_ratio"] == "0.3 (ResNet-18); 0.5 (ResNet-50)"
    same = [
        make_record(recipe=("prune",), steps={"prune": {"pruning_ratio": ratio}})
        for ratio in (0.3, 0.5)
    ]
    assert values(same)["prune", "pruning_ratio"] == "0.3; 0.5"


def test_settings_leave_out_what_has_no_result() -> None:
    assert ("nncf_int8", "preset") not in values([make_record(), make_failed()])


def test_settings_of_a_real_record_fit_a_page() -> None:
    found = values([Record.load(VERSION_1 / "nncf_int8")])
    assert found["nncf_int8", "calibration_size"] == "300"
    assert not any(step == "fit" for step, _ in found)  # its weights knew the classes
    assert len(found) < 45


def test_methods_cite_and_the_bibliography_has_every_work(tmp_path: Path) -> None:
    records = make_sweep()
    for record in records:
        for name, node in record.config["compress"].items():
            node["_target_"] = {
                "prune": "pqbench.compress.prune.Prune",
                "nncf_int8": "pqbench.compress.nncf_int8.NncfInt8",
                "ort_int8": "pqbench.compress.ort_int8.OrtInt8",
                "finetune": "pqbench.training.finetune.Finetune",
            }[name]
    write_report(records, tmp_path, plots=False)
    text = (tmp_path / "methods.tex").read_text()
    cited = {k for group in re.findall(r"\\cite\{(.*?)\}", text) for k in group.split(",")}
    assert {"fang2023depgraph", "molchanov2019importance", "kozlov2020nncf", "holm1979"} <= cited
    assert {"howard2019mobilenetv3", "deitsch2019elpv", "openvino", "he2016resnet"} <= cited
    bib = (tmp_path / "references.bib").read_text()
    assert {
        line.split("{")[1].rstrip(",\n") for line in bib.splitlines() if line[:1] == "@"
    } == cited
    assert "[@" not in text
    assert r"\bibliography{references}" in (tmp_path / "report.tex").read_text()
    assert "[@holm1979]" in (tmp_path / "methods.md").read_text()
    assert "[@" not in (tmp_path / "report.html").read_text()


def test_every_work_named_in_the_code_has_an_entry() -> None:
    keys = [key for _, works in references.STEPS.values() for key in works]
    for works in (references.CRITERIA, references.MODELS, references.DATASETS):
        keys += works.values()
    text = references.bibtex(sorted(set(keys)))
    assert text.count("{") == text.count("}")
    assert len(re.findall("^@", text, re.MULTILINE)) == len(set(keys))
    with pytest.raises(KeyError):
        references.bibtex(["nobody1900"])


def test_every_step_model_and_data_set_of_the_configuration_is_known() -> None:
    for path in (ROOT / "conf" / "compress").glob("*.yaml"):
        for node in (yaml.safe_load(path.read_text()) or {}).values():
            if isinstance(node, dict) and "_target_" in node:
                assert node["_target_"].rpartition(".")[2] in references.STEPS, path
    own = {"custom", "onnx", "timm"}
    models = {p.stem for p in (ROOT / "conf" / "model").glob("*.yaml")} - own
    assert models - set(references.MODELS) <= {"cnn"}  # pqbench's own network


def test_citations_survive_escaping() -> None:
    text = "50 % of x_1 [@a2000; @b2001], and [not one]."
    assert references.for_latex(text) == r"50 \% of x\_1~\cite{a2000,b2001}, and [not one]."
    assert references.plain(text) == "50 % of x_1, and [not one]."
    assert references.keys_in([text, text]) == ["a2000", "b2001"]
