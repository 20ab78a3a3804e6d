"""Each YAML in conf/ composes, and its classes take its keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import open_dict

from pqbench.app.arguments import config_folder, prepare, register_repeats
from pqbench.core.errors import ConfigError
from pqbench.experiment import config as schema

PACKAGE = Path(schema.__file__).parents[1]
CONF = config_folder()
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for group in ("model", "dataset", "compress", "backend", "protocol", "tracking")
    for path in (CONF / group).glob("*.yaml")
)
MUST_BE_GIVEN = {
    "dataset=imagefolder": ["dataset.root=somewhere"],
    "dataset=npz": ["dataset.root=somewhere.npz"],
    "model=custom": ["model.network._target_=torchvision.models.resnet18", "model.head=fc"],
    "model=onnx": ["model.file=somewhere.onnx"],
    "experiment=predecessor_onnx_file": ["model.file=somewhere.onnx"],
}
OTHER_TASK = {
    "lstm": ["dataset=sst2"],
    "bert": ["dataset=sst2"],
    "fcn_resnet50": ["dataset=camvid"],
    "sst2": ["model=lstm"],
    "imdb": ["model=bert"],
    "textfile": ["model=bert"],
    "camvid": ["model=fcn_resnet50"],
    "npz": ["model=onnx", "model.file=somewhere.onnx"],
}
SEARCHES = sorted(path.stem for path in (CONF / "search").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def composed(*overrides: str) -> schema.ExperimentConfig:
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    with open_dict(config):
        config.pop("hydra", None)
    return schema.read(config)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_composes_and_validates(group: str, option: str) -> None:
    given = MUST_BE_GIVEN.get(f"{group}={option}", [])
    config = composed(f"{group}={option}", *given, *OTHER_TASK.get(option, []))
    schema.validate(config)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_composes_and_validates(name: str) -> None:
    register_repeats([f"experiment={name}"])
    schema.validate(composed(f"experiment={name}", *MUST_BE_GIVEN.get(f"experiment={name}", [])))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_sweeps_over_choices_that_exist(name: str) -> None:
    """Each choice of each swept key composes and validates."""
    register_repeats([f"experiment={name}"])
    given = [f"experiment={name}", *MUST_BE_GIVEN.get(f"experiment={name}", [])]
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        params = compose("config", given, return_hydra_config=True).hydra.sweeper.params or {}
    overrides = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    choices = {
        o.key_or_group: list(o.sweep_string_iterator())
        if o.is_sweep_override()
        else [str(o.get_value_element_as_str())]
        for o in overrides
    }
    for index in range(max(map(len, choices.values()), default=0)):
        values = {key: values[index % len(values)] for key, values in choices.items()}
        recipe = values.get("compress", "")  # a step's settings go with the step
        chosen = [
            f"{key}={value}"
            for key, value in values.items()
            if not recipe or not key.startswith("compress.") or key.split(".")[1] in recipe
        ]
        schema.validate(composed(*given, *chosen))


@pytest.mark.parametrize("name", SEARCHES)
def test_search_composes_and_validates(name: str) -> None:
    schema.validate(composed(f"search={name}"))


def test_recipe_keeps_the_order_of_its_steps() -> None:
    assert list(composed("compress=[prune,finetune,ort_int8]").compress) == [
        "prune",
        "finetune",
        "ort_int8",
    ]


def test_fingerprint_depends_on_order_and_settings_not_on_where_results_go() -> None:
    def named(*overrides: str) -> str:
        return schema.fingerprint(schema.to_plain(composed(*overrides)))

    one = named("compress=[prune,finetune]")
    assert one == named(
        "compress=[prune,finetune]",
        "outputs=elsewhere",
        "limits.cell_s=5",
        "retry=failed",
        "claim.max_drop_pt=2",
    )
    assert one != named("compress=[finetune,prune]")
    assert one != named("compress=[prune,finetune]", "compress.prune.pruning_ratio=0.5")


@pytest.mark.parametrize(
    "override",
    [
        "modell=resnet18",
        "model.nam=x",
        "seed=abc",
        "protocol.batch_sizes=3",
        "model.weights=mine",
        "dataset.resize_mode=stretch",
    ],
)
def test_unknown_key_or_wrong_type_is_refused_by_composition(override: str) -> None:
    with pytest.raises(ConfigCompositionException):
        composed(override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("protocol.batch_sizes=[0]", "batch_sizes"),
        ("protocol.batch_sizes=[]", "batch_sizes"),
        ("protocol.max_seconds=0", "max_seconds"),
        ("threads=0", "threads"),
        ("dataset.limit=0", "limit"),
        ("model.weights=file", "weights_file"),
        ("+backend.thread=1", "thread"),
        ("backend._target_=pqbench.backends.nothing.Backend", "pqbench.backends.nothing"),
    ],
)
def test_invalid_value_is_refused_with_its_key(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        schema.validate(composed(override))


def test_arguments_move_multirun_to_the_front_and_keep_a_given_sweep() -> None:
    assert prepare(["a=1", "-m", "b=1,2"]) == ["-m", "a=1", "b=1,2"]
    assert prepare(["a=1", "b=1,2"]) == ["a=1", "b=1,2"]


def test_arguments_move_options_with_their_values_to_the_front() -> None:
    given = ["experiment=demo", "--config-dir", "mine", "model=leaf", "-m", "~x"]
    assert prepare(given) == ["-m", "--config-dir", "mine", "experiment=demo", "model=leaf", "~x"]
    assert prepare(["a=1", "--config-dir=mine", "b=2"]) == ["--config-dir=mine", "a=1", "b=2"]
    assert prepare(["a=1", "--info", "searchpath"]) == ["--info", "searchpath", "a=1"]
    assert prepare(["--info", "a=1"]) == ["--info", "a=1"]


def test_arguments_sweep_over_available_backends_when_nothing_is_swept() -> None:
    arguments = prepare(["model=resnet18", "compress=[prune,finetune]", "-m"])
    assert arguments[:3] == ["-m", "model=resnet18", "compress=[prune,finetune]"]
    name, _, options = arguments[3].partition("=")
    assert name == "backend"
    assert {"torch", "ort", "openvino"} <= set(options.split(","))


@pytest.mark.parametrize("bf16", [True, False])
def test_default_sweep_has_bf16_where_the_cpu_has_it(
    bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pqbench.app import backends_here

    monkeypatch.setattr(backends_here, "cpu_has_bf16", lambda: bf16)
    names = set(backends_here.available_backends(Path(CONF)))
    assert {"torch", "ort", "openvino"} <= names
    assert ({"torch_bf16", "openvino_bf16"} <= names) == bf16
    assert bf16 or not {name for name in names if name.endswith("_bf16")}


@pytest.mark.parametrize("option", ["--cfg=job", "-c", "--info", "--run"])
def test_what_shows_one_experiment_is_refused_beside_a_sweep(option: str) -> None:
    with pytest.raises(ConfigError, match=r"is about one experiment, -m about a sweep"):
        prepare(["compress=none,ort_int8", option, "-m"])


def test_arguments_leave_a_named_backend_or_experiment_alone() -> None:
    assert prepare(["backend=ort", "-m"]) == ["-m", "backend=ort"]
    assert prepare(["experiment=demo", "-m"]) == ["-m", "experiment=demo"]


def test_conf_keys_are_commented() -> None:
    """Whoever opens a YAML file learns what its keys mean."""
    bare = [p for p in Path(CONF).rglob("*.yaml") if "#" not in p.read_text(encoding="utf-8")]
    assert not bare


@pytest.mark.parametrize("overrides", [[], ["model=bert", "dataset=sst2"], ["compress=prune"]])
def test_configuration_is_the_same_after_a_way_through_plain_values(overrides: list[str]) -> None:
    config = composed(*overrides)
    assert schema.from_plain(schema.to_plain(config)) == config


def test_settings_that_a_model_does_not_have_are_not_in_its_configuration() -> None:
    text = schema.to_plain(composed("model=bert", "dataset=sst2"))["model"]
    image = schema.to_plain(composed())["model"]
    assert "preprocess" not in text and "tokenizer" in text
    assert "preprocess" in image and "tokenizer" not in image


def test_plain_values_with_an_unknown_key_are_refused() -> None:
    plain = schema.to_plain(composed())
    plain["protocol"]["minimum_pairs"] = 3
    with pytest.raises(ConfigError, match="minimum_pairs"):
        schema.from_plain(plain)


def test_configuration_is_read_by_attribute_below_the_app() -> None:
    """A typed configuration that lives on as string subscripts is none."""
    below = [p for p in PACKAGE.rglob("*.py") if "app" not in p.relative_to(PACKAGE).parts]
    pattern = re.compile(r"\b(config|dataset|model|protocol|fit|limits|tracking)\[\"")
    found = [
        f"{path.name}: {line.strip()}"
        for path in below
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]
    assert not found
