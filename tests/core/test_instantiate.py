from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend, Session
from pqbench.core.dataset import Dataset
from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import find_class, make, public_name
from pqbench.core.step import Kind, Step, StepData
from pqbench.core.task import Task

CALLS: list[str] = []


class Named(Backend):
    loads: ClassVar[tuple[Representation, ...]] = ("onnx",)

    def __init__(self, name: str, threads: int = 1) -> None:
        self.name = name
        self.threads = threads

    def availability(self) -> Availability:
        return Availability(True, "cpu", {})

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> Session:
        raise NotImplementedError


class LooksLikeAStep:
    """Has all members, but does not inherit."""

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    def __init__(self) -> None:
        CALLS.append("LooksLikeAStep")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        return artifact


class NoKind(Step):
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    def __init__(self) -> None:
        CALLS.append("NoKind")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        return artifact


class NoLoads(Backend):
    def __init__(self) -> None:
        CALLS.append("NoLoads")

    def availability(self) -> Availability:
        return Availability(True, "cpu", {})


class Scalars(Named):
    def __init__(
        self,
        flag: bool | None = None,
        count: int = 1,
        share: float = 0.5,
        other: Sequence[int] | int = 1,
    ) -> None:
        self.given = (flag, count, share, other)


def a_function() -> None:
    CALLS.append("a_function")


def node(what: Any, **options: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{what.__name__}", **options}


def test_make_gives_the_name_to_a_class_that_takes_it() -> None:
    made = make(node(Named, name="mine", threads=3), "backend", Backend)
    assert (made.name, made.threads) == ("mine", 3)


@pytest.mark.parametrize(
    ("what", "contract", "message"),
    [
        (
            LooksLikeAStep,
            Step,
            r"LooksLikeAStep does not inherit from pqbench\.Step\. write",
        ),
        (Named, Step, r"Named does not inherit from pqbench\.Step"),
        (a_function, Backend, r"a_function is a function, a class is needed\. .*pqbench\.Backend"),
        (NoKind, Step, r"NoKind has no kind\. "),
        (NoLoads, Backend, r"NoLoads has no loads, load\. "),
    ],
)
def test_make_refuses_before_the_call_what_does_not_keep_the_contract(
    what: Any, contract: type, message: str
) -> None:
    CALLS.clear()
    with pytest.raises(ConfigError, match=rf"^compress\.mine: .*{message}"):
        make(node(what), "compress.mine", contract)
    assert CALLS == []


def test_make_says_in_one_line_what_cannot_be_imported() -> None:
    with pytest.raises(ConfigError, match="backend: cannot import no_such_module") as caught:
        make({"_target_": "no_such_module.Backend"}, "backend", Backend)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="backend has no _target_"):
        make({"name": "mine"}, "backend", Backend)


def test_make_names_the_options_that_a_class_takes() -> None:
    with pytest.raises(ConfigError, match=r"unexpected .*'thread'.* it takes: name, threads"):
        make(node(Named, name="mine", thread=1), "backend", Backend)


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("flag", "off", "true or false or null"),
        ("flag", 1, "true or false or null"),
        ("count", 2.5, "a whole number"),
        ("count", True, "a whole number"),
        ("count", None, "a whole number"),
        ("share", "half", "a number"),
    ],
)
def test_make_refuses_a_value_of_another_kind(option: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"^backend\.{option}={value}: takes {wanted}$"):
        make(node(Scalars, **{option: value}), "backend", Backend)


def test_make_takes_a_whole_number_for_any_and_leaves_other_kinds_to_the_class() -> None:
    made = make(node(Scalars, flag=False, count=2, share=1, other="x"), "backend", Backend)
    assert made.given == (False, 2, 1, "x")  # type: ignore[attr-defined]


def test_find_class_makes_nothing() -> None:
    CALLS.clear()
    assert find_class(node(Named), "backend", Backend) is Named
    with pytest.raises(ConfigError, match="NoKind has no kind"):
        find_class(node(NoKind), "compress.mine", Step)
    assert CALLS == []


@pytest.mark.parametrize("contract", [Step, Backend, Session, Dataset, Task])
def test_a_contract_documents_each_member_that_it_declares(contract: type) -> None:
    assert public_name(contract) == f"pqbench.{contract.__name__}"
    described = inspect.getdoc(contract) or ""
    for name in inspect.get_annotations(contract):
        assert f"\n    {name}: " in described, name
    for name, member in vars(contract).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), name
