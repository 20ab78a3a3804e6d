"""Order, conversions and refusals of recipes: pure logic."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqbench.compress.nncf_int8 import NncfInt8
from pqbench.compress.ort_dynamic import OrtDynamic
from pqbench.compress.ort_int8 import OrtInt8
from pqbench.compress.prune import Prune
from pqbench.compress.recipe import FORWARD, Action, plan
from pqbench.core.artifact import Representation
from pqbench.core.errors import UnsupportedError
from pqbench.core.step import Kind, Step
from pqbench.training.finetune import Finetune
from pqbench.training.nncf_qat import NncfQat

ALL = {"prune": Prune, "finetune": Finetune, "ort_int8": OrtInt8, "nncf_int8": NncfInt8}


def _steps(*names: str) -> dict[str, type[Step]]:
    return {name: ALL[name] for name in names}


def _words(actions: list[Action]) -> list[str]:
    return [f"{a.name}:{a.after}" for a in actions]


@pytest.mark.parametrize(
    ("names", "loads", "expected"),
    [
        ((), "torch", []),
        ((), "onnx", ["export:onnx"]),
        ((), "openvino", ["export:onnx", "convert:openvino"]),
        (("prune", "finetune"), "torch", ["prune:torch", "finetune:torch"]),
        (("nncf_int8",), "onnx", ["export:onnx", "nncf_int8:onnx"]),
        (
            ("nncf_int8",),
            "openvino",
            ["export:onnx", "convert:openvino", "nncf_int8:openvino"],
        ),
        (("ort_int8",), "openvino", ["export:onnx", "ort_int8:onnx", "convert:openvino"]),
        (
            ("prune", "finetune", "ort_int8"),
            "onnx",
            ["prune:torch", "finetune:torch", "export:onnx", "ort_int8:onnx"],
        ),
    ],
)
def test_plan_inserts_conversions_and_prefers_what_the_backend_loads(
    names: tuple[str, ...], loads: str, expected: list[str]
) -> None:
    assert _words(plan(_steps(*names), "torch", (loads,), "b")) == expected


def test_plan_trains_a_network_before_it_is_converted_and_a_file_as_it_is() -> None:
    from pqbench.compress.prune_onnx_channels import PruneOnnxChannels

    assert _words(plan(_steps("finetune"), "torch", ("onnx",), "b")) == [
        "finetune:torch",
        "export:onnx",
    ]
    steps = {"channels": PruneOnnxChannels, "finetune": Finetune, "ort_int8": OrtInt8}
    rest = ["channels:onnx", "finetune:onnx", "ort_int8:onnx"]
    assert _words(plan(steps, "onnx", ("onnx",), "b")) == rest
    assert _words(plan(steps, "torch", ("onnx",), "b")) == ["export:onnx", *rest]


def test_plan_takes_classes_and_instances_alike() -> None:
    made = {"prune": Prune(), "nncf_int8": NncfInt8()}
    assert plan(made, "torch", ("onnx",), "b") == plan(
        _steps("prune", "nncf_int8"), "torch", ("onnx",), "b"
    )


@pytest.mark.parametrize(
    ("names", "start", "loads", "parts"),
    [
        (
            ("ort_int8", "prune"),
            "torch",
            "onnx",
            ["prune after ort_int8", "cannot be trained or pruned", "put prune before ort_int8"],
        ),
        (
            ("nncf_int8", "finetune"),
            "torch",
            "openvino",
            ["finetune after nncf_int8", "put finetune before nncf_int8"],
        ),
        (
            ("ort_int8", "nncf_int8"),
            "torch",
            "onnx",
            ["nncf_int8 after ort_int8", "quantized already", "keep one of"],
        ),
        (
            ("ort_int8",),
            "torch",
            "torch",
            [
                "ort_int8 gives an ONNX model",
                "backend 'b' cannot load that",
                "use backend=ort or backend=openvino",
            ],
        ),
        (
            ("nncf_int8",),
            "torch",
            "torch",
            ["computes in float with fake quantizers", "cannot load that", "backend=openvino"],
        ),
        (("prune",), "onnx", "onnx", ["prune works on torch models", "start from the torch model"]),
        ((), "onnx", "torch", ["the model is given as onnx", "backend 'b' loads torch"]),
        (("ort_int8",), "openvino", "openvino", ["ort_int8 works on onnx", "given as openvino"]),
    ],
)
def test_plan_refuses_and_says_what_to_do(
    names: tuple[str, ...], start: str, loads: str, parts: list[str]
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        plan(_steps(*names), start, (loads,), "b")
    for part in parts:
        assert part in str(caught.value)


class _OnnxOnly(Step):
    """A third party's step that rewrites ONNX graphs and neither trains nor quantizes."""

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("onnx",)


def test_plan_names_the_step_that_blocks_the_way_back() -> None:
    with pytest.raises(UnsupportedError, match="put prune before rewrite"):
        plan({"rewrite": _OnnxOnly, "prune": Prune}, "torch", ("onnx",), "ort")


def test_plan_gives_up_the_preference_when_a_later_step_needs_it() -> None:
    class Both(Step):
        kind: ClassVar[Kind] = "prune"
        takes: ClassVar[tuple[Representation, ...]] = ("onnx", "openvino")

    actions = plan({"both": Both, "rewrite": _OnnxOnly}, "torch", ("openvino",), "openvino")
    assert _words(actions) == ["export:onnx", "both:onnx", "rewrite:onnx", "convert:openvino"]


def test_plan_follows_a_step_that_changes_the_representation() -> None:
    actions = plan({"prune": Prune, "nncf_qat": NncfQat}, "torch", ("openvino",), "openvino")
    assert _words(actions) == ["prune:torch", "nncf_qat:openvino"]
    with pytest.raises(UnsupportedError, match="nncf_qat gives an OpenVINO model") as caught:
        plan({"nncf_qat": NncfQat}, "torch", ("onnx",), "ort")
    assert "neither torch.onnx exporter" in str(caught.value)
    assert caught.value.hint == "use backend=openvino"


def test_plan_converts_nothing_after_a_final_step() -> None:
    assert _words(plan({"ort_dynamic": OrtDynamic}, "torch", ("onnx",), "ort")) == [
        "export:onnx",
        "ort_dynamic:onnx",
    ]
    with pytest.raises(UnsupportedError, match="no other runtime runs") as caught:
        plan({"ort_dynamic": OrtDynamic}, "torch", ("openvino",), "openvino")
    assert caught.value.hint == "use backend=ort"

    class Final(Step):
        kind: ClassVar[Kind] = "prune"
        takes: ClassVar[tuple[Representation, ...]] = ("onnx",)
        final: ClassVar[str] = "it is sealed"

    class Native(Step):
        kind: ClassVar[Kind] = "prune"
        takes: ClassVar[tuple[Representation, ...]] = ("openvino",)

    with pytest.raises(UnsupportedError, match="native after seal: it is sealed"):
        plan({"seal": Final, "native": Native}, "torch", ("openvino",), "openvino")


REPRESENTATIONS = tuple(FORWARD)
STEPS_ALONE_GIVE = ("torch_int8", "onnx_calibrated")


@given(
    names=st.lists(st.sampled_from(sorted(ALL)), unique=True),
    start=st.sampled_from(REPRESENTATIONS),
    loads=st.sampled_from(REPRESENTATIONS),
)
def test_plan_is_sound_or_refuses(names: list[str], start: str, loads: str) -> None:
    steps = _steps(*names)
    try:
        actions = plan(steps, start, (loads,), "some")
    except UnsupportedError as error:
        assert error.hint
        quantizing = [i for i, n in enumerate(names) if ALL[n].kind == "quantize"]
        ordered = not quantizing or quantizing == [len(names) - 1]
        if ordered and start == "torch":
            # The only thing left to refuse is what the backend loads.
            assert quantizing or loads in STEPS_ALONE_GIVE
            assert loads in ("torch", *STEPS_ALONE_GIVE) or (names[-1], loads) not in {
                ("ort_int8", "onnx"),
                ("nncf_int8", "onnx"),
            }
        return
    here = start
    for action in actions:
        if action.kind == "convert":
            assert action.after in FORWARD[here]
        else:
            assert action.after == here
            assert here in steps[action.name].takes
        here = action.after
    assert here == loads
    assert [a.name for a in actions if a.kind == "step"] == names


@given(names=st.permutations(sorted(ALL)))
def test_plan_never_trains_or_prunes_after_quantizing(names: list[str]) -> None:
    with pytest.raises(UnsupportedError):
        plan(_steps(*names), "torch", ("openvino",), "openvino")
