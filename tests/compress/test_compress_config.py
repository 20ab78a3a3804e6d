"""conf/compress: what the command line's recipes compose to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pqbench.compress import table
from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import make
from pqbench.core.step import Step
from pqbench.experiment.config import register

CONF = Path(__file__).resolve().parents[2] / "conf"
CHOICES = sorted(path.stem for path in (CONF / "compress").glob("*.yaml"))


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """conf/compress under a primary config of its own."""
    main = "defaults: [compress: none, _self_]\ndataset: {augment: flip}\n"
    (tmp_path / "main.yaml").write_text(main)
    (tmp_path / "compress").symlink_to(CONF / "compress")
    return tmp_path


def _compose(conf: Path, *overrides: str) -> dict[str, Any]:
    register()
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("main", overrides=list(overrides))
    value = OmegaConf.to_container(config, resolve=True)
    assert isinstance(value, dict)
    return value["compress"]


def test_recipe_keeps_the_order_of_the_command_line(conf: Path) -> None:
    assert list(_compose(conf, "compress=[prune,finetune,ort_int8]")) == [
        "prune",
        "finetune",
        "ort_int8",
    ]
    assert list(_compose(conf, "compress=[finetune,prune]")) == ["finetune", "prune"]


def test_recipe_none_is_empty(conf: Path) -> None:
    assert _compose(conf, "compress=none") == {}
    assert _compose(conf) == {}


def test_recipe_settings_override_by_step(conf: Path) -> None:
    recipe = _compose(conf, "compress=[prune,ort_int8]", "compress.prune.pruning_ratio=0.5")
    assert recipe["prune"]["pruning_ratio"] == 0.5
    assert make(recipe["prune"], "compress.prune", Step).pruning_ratio == 0.5


def test_recipe_sweep_parses_single_steps_and_lists() -> None:
    (override,) = OverridesParser.create().parse_overrides(
        ["compress=none,nncf_int8,[prune,ort_int8]"]
    )
    assert override.is_sweep_override()
    assert list(override.sweep_string_iterator()) == ["none", "nncf_int8", "[prune,ort_int8]"]


@pytest.mark.parametrize("choice", [c for c in CHOICES if c != "none"])
def test_choice_is_one_step_named_like_its_file(conf: Path, choice: str) -> None:
    recipe = _compose(conf, f"compress={choice}")
    assert list(recipe) == [choice]
    step = make(recipe[choice], f"compress.{choice}", Step)
    assert isinstance(step, Step)


@pytest.mark.parametrize("choice", [c for c in CHOICES if c != "none"])
def test_choice_lists_every_setting_with_a_comment(choice: str) -> None:
    from dataclasses import fields

    from hydra.utils import get_class

    text = (CONF / "compress" / f"{choice}.yaml").read_text()
    settings = table.settings(CONF, choice)
    known = {field.name for field in fields(get_class(settings["_target_"]))}
    assert set(settings) - {"_target_"} == known
    for line in text.splitlines()[1:]:
        bare = line in ("", "  - _self_") or line.endswith(":") or "_target_" in line
        assert bare or "#" in line, line


@pytest.mark.parametrize(
    ("choice", "key", "value"),
    [
        ("prune", "pruning_ratio", 1.0),
        ("prune", "criterion", "best"),
        ("prune", "round_to", 0),
        ("finetune", "epochs", 0),
        ("finetune", "augment", "mixup"),
        ("finetune", "patience", 2),
        ("finetune", "budget", "endless"),
        ("finetune", "ema", 1.0),
        ("distill", "teacher_weight", 1.5),
        ("ort_int8", "calibration_size", 0),
        ("ort_int8", "method", "guess"),
        ("partial_int8", "max_drop", 1),
        ("partial_int8", "runtime", "torch"),
        ("partial_int8", "validation_size", 5),
        ("partial_int8", "otherwise", "skip"),
        ("nncf_int8", "preset", "fast"),
        ("nncf_accuracy_int8", "max_drop", 0),
        ("nncf_accuracy_int8", "ranking_size", 0),
        ("nncf_weights", "mode", "int2"),
        ("nncf_weights", "ratio", 0),
        ("nncf_weights", "group_size", 0),
        ("nncf_qat", "calibration_size", 0),
        ("nncf_qat", "recalibrate_bn", 1),
        ("nncf_qat", "devices", 2),
        ("finetune", "devices", 0),
        ("finetune", "precision", "fp8"),
        ("trt_entropy_int8", "calibration_size", 5),
        ("trt_entropy_int8", "batch_size", 0),
        ("ort_dynamic", "weight", "int4"),
        ("ort_dynamic", "op_types", "[Conv]"),
        ("prune", "target", "speed"),
        ("prune", "gradient_images", 0),
        ("prune_unstructured", "sparsity", 1),
        ("low_rank", "energy", 1.0),
        ("low_rank", "least_saving", 1.0),
        ("low_rank", "round_to", 0),
        ("modelopt_int8", "precision", "int4"),
        ("modelopt_int8", "method", "minmax"),
        ("modelopt_int8", "high_precision", "fp8"),
        ("modelopt_int8", "calibration_size", 0),
        ("aimet_int8", "method", "entropy"),
        ("aimet_int8", "calibration_size", 0),
        ("aimet_int8", "adaround_images", 0),
        ("aimet_int8", "adaround_iterations", 0),
        ("aimet_int8", "adaround_batch", 0),
        ("sparsify", "penalty", "hope"),
        ("sparsify", "strength", 0),
        ("sparsify", "devices", 2),
        ("prune_unstructured", "scope", "all"),
        ("sensitivity", "action", "guess"),
        ("sensitivity", "ratio", 1),
        ("sensitivity", "bits", 1),
        ("sensitivity", "images", 0),
    ],
)
def test_choice_refuses_impossible_settings(
    conf: Path, choice: str, key: str, value: object
) -> None:
    recipe = _compose(conf, f"compress={choice}", f"compress.{choice}.{key}={value}")
    with pytest.raises(ConfigError, match=key):
        make(recipe[choice], f"compress.{choice}", Step)


def test_reduce_range_is_what_the_cpu_needs(conf: Path) -> None:
    from pqbench.machine.cpu import cpu_saturates_int8

    for choice in ("ort_int8", "partial_int8", "nncf_int8", "nncf_qat", "ort_dynamic"):
        recipe = _compose(conf, f"compress={choice}")
        assert recipe[choice]["reduce_range"] is cpu_saturates_int8()
    assert _compose(conf, "compress=ort_int8_trt")["ort_int8_trt"]["reduce_range"] is False


def test_layer_ratios_are_set_by_name(conf: Path) -> None:
    recipe = _compose(conf, "compress=prune", "+compress.prune.layer_ratios={features.12: 0.5}")
    assert recipe["prune"]["layer_ratios"] == {"features.12": 0.5}


def test_the_same_step_twice_has_settings_of_its_own(conf: Path) -> None:
    from pqbench.app.arguments import register_repeats

    arguments = ["compress=[finetune,prune,finetune_2]", "compress.finetune_2.epochs=5"]
    assert register_repeats(arguments) == ["finetune_2"]
    recipe = _compose(conf, *arguments)
    assert list(recipe) == ["finetune", "prune", "finetune_2"]
    assert recipe["finetune_2"]["epochs"] == 5
    assert {**recipe["finetune_2"], "epochs": None} == recipe["finetune"]
    assert make(recipe["finetune_2"], "compress.finetune_2", Step).epochs == 5


def test_repeats_of_a_users_own_step_and_of_an_experiment(tmp_path: Path) -> None:
    from pqbench.app.arguments import register_repeats

    own = tmp_path / "compress"
    own.mkdir()
    (own / "round.yaml").write_text("# @package compress\nround:\n  _target_: user_steps.Round\n")
    (own / "prune_9.yaml").write_text("# @package compress\nprune_9: {}\n")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "defaults: [{override /compress: [round, prune, round_2, prune_9]}]"
    )
    named = ["--config-dir", str(tmp_path), "experiment=mine"]
    assert register_repeats(named) == ["round_2"]  # prune_9 is a file of the user's
    assert register_repeats(["--config-dir=" + str(tmp_path), "compress=[round,round_3]"]) == [
        "round_3"
    ]
    assert register_repeats(["compress=round_2", "model=mobilenet_3", "compress=prune_1"]) == []


@pytest.mark.parametrize(
    ("variant", "base", "changed"),
    [
        ("prune_half", "prune", {"pruning_ratio": 0.5}),
        ("prune_2_4", "prune_unstructured", {"pattern": "2:4"}),
        ("nncf_int8_full", "nncf_int8", {"fast_bias_correction": False}),
        ("distill", "finetune", {"teacher_weight": 0.7}),
        (
            "sparsify",
            "finetune",
            {
                "_target_": "pqbench.training.sparsify.Sparsify",
                "penalty": "group_norm",
                "strength": None,
            },
        ),
        (
            "ort_int8_trt",
            "ort_int8",
            {
                "activation": "int8",
                "symmetric": True,
                "quantize_bias": False,
                "reduce_range": False,
            },
        ),
    ],
)
def test_a_variant_is_its_base_but_for_what_it_says(
    conf: Path, variant: str, base: str, changed: dict[str, object]
) -> None:
    recipe = _compose(conf, f"compress=[{base},{variant}]")
    assert list(recipe) == [base, variant]
    assert recipe[variant] == {**recipe[base], **changed}
    assert recipe[variant] != recipe[base]


def test_a_variant_and_a_step_of_the_old_form_can_be_repeated(tmp_path: Path, conf: Path) -> None:
    from pqbench.app.arguments import register_repeats

    arguments = ["compress=[prune_half,prune_half_2]", "compress.prune_half_2.round_to=4"]
    assert register_repeats(arguments) == ["prune_half_2"]
    recipe = _compose(conf, *arguments)
    assert list(recipe) == ["prune_half", "prune_half_2"]
    assert recipe["prune_half_2"] == {**recipe["prune_half"], "round_to": 4}
