"""What a thesis takes from a report beside the tables: settings, methods with citations, BibTeX."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from record_factory import make_failed, make_record, make_sweep
from version_1 import FOLDER as VERSION_1

from pqbench.core.record import Record
from pqbench.report import footnotes, names, references
from pqbench.report.__main__ import main
from pqbench.report.methods import methods_paragraphs
from pqbench.report.settings import settings
from pqbench.report.write import write_report

ROOT = Path(__file__).parents[2]


def values(records: list[Record]) -> dict[tuple[str, str], str]:
    return {(x.step, x.name): x.value for x in settings(records)}


def test_settings_hold_what_decided_the_result() -> None:
    found = values(make_sweep())
    assert found["prune", "pruning_ratio"] == "0.3"
    assert found["prune", "criterion"] == "taylor"
    assert found["fine-tune", "epochs"] == "4"
    assert found["fine-tune", "learning_rate"] == "0.001"
    assert found["ORT INT8", "method"] == "minmax"
    assert found["measurement", "batch_sizes"] == "1, 16, 64"
    assert found["backend OpenVINO", "precision"] == "f32"
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
    assert found["NNCF INT8", "calibration_size"] == "300"
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
    for works in (references.PENALTIES, references.MODELS, references.DATASETS):
        keys += works.values()
    keys += [key for _, key in references.CRITERIA.values()]
    keys += [key for _, works in references.RANGES.values() for key in works]
    text = references.bibtex(sorted(set(keys)))
    assert text.count("{") == text.count("}")
    assert len(re.findall("^@", text, re.MULTILINE)) == len(set(keys))
    with pytest.raises(KeyError):
        references.bibtex(["nobody1900"])


def test_every_step_runtime_and_model_of_the_configuration_has_a_name_and_works() -> None:
    for path in (ROOT / "conf" / "compress").glob("*.yaml"):
        node = yaml.safe_load(path.read_text()) or {}
        if "_target_" in node:
            assert node["_target_"].rpartition(".")[2] in references.STEPS, path
        assert path.stem in {*names.STEPS, "none"}, path
    for path in (ROOT / "conf" / "backend").glob("*.yaml"):
        assert path.stem in names.BACKENDS, path
        assert references.backend(path.stem), path
    own = {"custom", "onnx", "timm"}
    models = {p.stem for p in (ROOT / "conf" / "model").glob("*.yaml")} - own
    assert models - set(references.MODELS) <= {"cnn"}  # pqbench's own network
    assert models <= set(names.MODELS)


def test_methods_cite_what_the_settings_of_a_step_choose() -> None:
    def told(step: str, target: str, **settings: object) -> str:
        node = {"_target_": f"pqbench.{target}", **settings}
        record = make_record(recipe=(step,))
        record.config["compress"] = {step: node}
        (text,) = references.steps([record])
        return text

    entropy = told("ort_int8", "compress.ort_int8.OrtInt8", method="entropy")
    assert entropy.startswith("ORT INT8: static INT8")
    assert "[@wu2020integer]" in entropy
    full = told("nncf_int8", "compress.nncf_int8.NncfInt8", fast_bias_correction=False)
    assert "full bias correction [@nagel2019datafree]" in full
    partial = told("partial_int8", "compress.partial_int8.PartialInt8", bias_correction=True)
    assert partial.startswith("ORT INT8 where it pays: static INT8")
    assert "with bias correction [@nagel2019datafree]" in partial
    assert "denton2014exploiting" in told("low_rank", "compress.low_rank.LowRank", energy=0.9)
    drawn = told("sparsify", "training.sparsify.Sparsify", penalty="bn_scale", ema=0.99)
    assert "[@liu2017slimming]" in drawn
    assert "[@polyak1992acceleration]" in drawn
    taught = told("distill", "training.finetune.Finetune", teacher_weight=0.7)
    assert "[@hinton2015distilling]" in taught
    pruned = {"criterion": "taylor", "recalibrate_bn": 256}
    assert "yu2019" not in told("prune", "compress.prune.Prune", **pruned)  # no BatchNorm there
    record = make_record(recipe=("prune",))
    record.config["compress"] = {"prune": {"_target_": "pqbench.compress.prune.Prune", **pruned}}
    record.lineage[0]["details"] = {"batch_norm_images": 256}
    assert "yu2019universally" in references.steps([record])[0]


def test_methods_name_how_classes_were_learned_and_whose_models_and_formats_they_are() -> None:
    record = make_record("resnet50d", "openvino_bf16")
    record.config["model"]["network"] = {"_target_": "timm.create_model"}
    record.lineage = [{"action": "fit", "config": {"method": "linear_probe"}, "details": {}}]
    text = " ".join(methods_paragraphs([record]))
    assert "resnet50d [@wightman2019timm]" in text
    assert "OpenVINO (BF16) [@openvino; @kalamkar2019bfloat16]" in text
    assert "resnet50d by a linear layer on frozen features" in text
    assert "[@kornblith2019better]" in text


def test_methods_name_every_number_of_threads() -> None:
    records = [make_record(), make_record("resnet50d")]
    for record, threads in zip(records, (1, 2), strict=True):
        record.config["threads"] = threads
    assert "1 or 2 threads as each record says" in " ".join(methods_paragraphs(records))
    assert "1 thread for every runtime" in " ".join(methods_paragraphs(records[:1]))


def test_methods_say_whether_pytorchs_memory_was_kept() -> None:
    records = [make_record(), make_record("resnet50d")]
    assert "C library" not in " ".join(methods_paragraphs(records))  # as in older records
    for record, keeps in zip(records, (True, False), strict=True):
        assert record.placement is not None
        record.placement.details["keep_memory"] = keeps
    both = " ".join(methods_paragraphs(records))
    assert "kept what PyTorch freed for its next call or, as each record says, gave" in both
    assert "its next call. " in " ".join(methods_paragraphs(records[:1]))


def test_settings_tell_the_epochs_of_a_budget_and_leave_out_what_is_idle() -> None:
    trained = {"epochs": None, "budget": "quick", "temperature": 2.0, "teacher_weight": 0.0}
    quantized = {"method": "minmax", "percentile": 99.9}
    record = make_record(
        recipe=("finetune", "ort_int8"), steps={"finetune": trained, "ort_int8": quantized}
    )
    record.lineage[0]["details"] = {"epochs": 2}
    found = values([record])
    assert found["fine-tune", "epochs"] == "2"
    assert ("fine-tune", "temperature") not in found
    assert ("ORT INT8", "percentile") not in found
    trained |= {"teacher_weight": 0.7}
    record.config["compress"]["finetune"] |= trained
    record.config["compress"]["ort_int8"]["method"] = "percentile"
    found = values([record])
    assert found["fine-tune", "temperature"] == "2"
    assert found["ORT INT8", "percentile"] == "99.9"


def test_fit_is_told_as_it_was_done() -> None:
    record = make_record()
    record.config["fit"] = {"method": "auto", "epochs": 5}
    fit = {"method": "linear_probe", "folds": 5, "seed": 0, "threads": 2}
    record.lineage = [{"action": "fit", "config": fit, "details": {}}]
    found = {name: value for (step, name), value in values([record]).items() if step == "fit"}
    assert found == {"method": "linear_probe", "folds": "5"}


def test_latex_uses_the_names_of_print_and_says_machine_samples_and_batch(tmp_path: Path) -> None:
    records = [r for r in make_sweep() if r.experiment.backend != "onnxruntime"]
    records[0].notes = ["of two outputs 'a' is scored (model.output)"]
    write_report(records, tmp_path)
    place = "Example CPU @ 2.10GHz, 2 threads."
    of = "MobileNetV3-Large and ResNet-18 on ELPV val (n = 525)"
    for name in ("table", "batches", "settings", "figures"):
        text = (tmp_path / f"{name}.tex").read_text()
        captions = re.findall(r"\\caption\{(.*?)\}$", text, re.MULTILINE)
        assert captions, name
        for told in captions:
            assert of in told, told
            assert told.endswith(place), told
            assert "batch size" in told or "size of the deployed files" in told, told
    table = (tmp_path / "table.tex").read_text()
    assert "openvino" not in table
    assert "nncf" not in table
    assert r"\textbf{ResNet-18 \textperiodcentered{} OpenVINO}" in table
    assert r"prune +\,fine-tune +\,NNCF INT8" in table
    assert r"\input{figures}" in (tmp_path / "report.tex").read_text()
    assert "'a' is scored" in table
    assert "model.output" not in table
    assert "model.output" in (tmp_path / "table.md").read_text()


def test_footnotes_in_print_have_no_command_line() -> None:
    told = footnotes.note_in_print
    assert told("'a' is scored (model.output)") == "'a' is scored"
    assert told("32 of 40 images; protocol.processes=8 has more") == "32 of 40 images"
    assert told("one (as model.onnx_file says) of two (of 5)") == "one of two (of 5)"
    assert (
        told("see a/model.txt; drift of 3 % (too much)")
        == "see a/model.txt; drift of 3 % (too much)"
    )
    assert told("model.task=none: compared only") == "model.task=none: compared only"


def test_hidden_experiments_are_in_no_table(tmp_path: Path) -> None:
    missing = make_failed(status="unsupported", message="no such pair")
    for folder, record in (("a", make_record()), ("b", missing)):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        record.save(tmp_path / "runs" / folder)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "all"), "--no-plots"]) == 0
    assert "1 combination" in (tmp_path / "all" / "table.tex").read_text()
    hidden = ["--hide", "unsupported", "--out", str(tmp_path / "less"), "--no-plots"]
    assert main([str(tmp_path / "runs"), *hidden]) == 0
    for name in ("table.tex", "table.md", "report.html", "batches.csv"):
        assert "tensorrt" not in (tmp_path / "less" / name).read_text().lower(), name


def test_recipes_in_a_text_are_named_as_in_print() -> None:
    assert names.in_print("prune+finetune_2+mine on ort") == "prune + fine-tune (2)+mine on ort"
    assert (
        names.in_print("a nncf_int8, compress.nncf_int8.x=1")
        == "a NNCF INT8, compress.nncf_int8.x=1"
    )
    assert names.step_name("prune_2_4") == "prune 2:4"
    assert names.step_name("my_step") == "my_step"


def test_citations_survive_escaping() -> None:
    text = "50 % of x_1 [@a2000; @b2001], and [not one]."
    assert references.for_latex(text) == r"50 \% of x\_1~\cite{a2000,b2001}, and [not one]."
    assert references.plain(text) == "50 % of x_1, and [not one]."
    assert references.keys_in([text, text]) == ["a2000", "b2001"]
