from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pqbench.backends.executorch.backend import ExecutorchBackend
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, PlacementError, UnavailableError, UnsupportedError
from pqbench.core.parity import sqnr_db
from pqbench.export import convert
from pqbench.export import executorch_convert as converter
from pqbench.export.reference import torch_outputs
from pqbench.nets.executorch_net import load_operators, save_operators
from pqbench.testing import check_backend

pytest.importorskip("executorch", reason="pip install 'pqbench[executorch]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter
Feed = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def program(
    torch_artifact: Artifact, images: Feed, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    return convert(torch_artifact, "executorch", images, tmp_path_factory.mktemp("executorch"))


def test_executorch_conversion_proves_its_parity(program: Artifact) -> None:
    parity = program.lineage[-1].details["parity"]
    assert parity["sqnr_db"] > 90
    assert program.lineage[-1].details["delegated"] > 5


def test_executorch_session_computes_what_torch_does_at_every_batch_size(
    program: Artifact, torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    session = ExecutorchBackend(2).load(program, [1, 3])
    for count in (1, 3):
        (got,) = session.run(take(count))
        assert got.dtype == np.float32
        assert sqnr_db(torch_outputs(torch_artifact, take(count))[0], got) > 90
    session.close()


def test_executorch_placement_tells_who_runs_the_operators(program: Artifact) -> None:
    placement = ExecutorchBackend(2).load(program, [1]).placement()
    assert (placement.quantizable, placement.integer) == (4, 0)
    assert placement.nodes["xnnpack"] == sum(
        count for name, count in placement.kernels.items() if name.startswith("xnnpack")
    )
    assert placement.threads == 2 == torch.get_num_threads()


def test_executorch_refuses_products_of_reference_kernels_unless_allowed(
    program: Artifact, tmp_path: Path
) -> None:
    counts = load_operators(program.folder)
    counts["portable"]["convolution"] = 3
    (tmp_path / "model.pte").write_bytes(program.path.read_bytes())
    save_operators(tmp_path, counts)
    moved = replace(program, folder=tmp_path)
    with pytest.raises(PlacementError, match=r"did not take \{'convolution': 3\}"):
        ExecutorchBackend(1).load(moved, [1]).placement()
    allowed = ExecutorchBackend(1, portable="allow").load(moved, [1]).placement()
    assert allowed.kernels["portable convolution"] == 3


def test_executorch_refuses_other_threads_than_asked(program: Artifact) -> None:
    session = ExecutorchBackend(2).load(program, [1])
    torch.set_num_threads(1)
    with pytest.raises(PlacementError, match="asked for 2 threads, it took 1"):
        session.placement()


def test_executorch_refuses_batches_where_it_is_told_to(program: Artifact) -> None:
    with pytest.raises(UnsupportedError, match="one sample a call"):
        ExecutorchBackend(1, batch="refuse").load(program, [1, 16])


def test_executorch_names_a_program_that_it_cannot_load(program: Artifact, tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_bytes(b"no program")
    with pytest.raises(UnsupportedError, match=r"cannot load model\.pte"):
        ExecutorchBackend(1).load(replace(program, folder=tmp_path), [1])


def test_executorch_that_is_missing_is_said_with_the_remedy(
    torch_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = ExecutorchBackend(1).availability()
    assert not found.available and found.hint == "pip install 'pqbench[executorch]'"
    with pytest.raises(UnavailableError, match="not installed"):
        converter.convert_executorch(torch_artifact, tmp_path)


@pytest.mark.parametrize("options", [{"batch": "all"}, {"portable": "maybe"}])
def test_executorch_refuses_options_that_cannot_be_meant(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        ExecutorchBackend(1, **options)


def test_executorch_keeps_the_contract() -> None:
    check_backend(ExecutorchBackend(1))
