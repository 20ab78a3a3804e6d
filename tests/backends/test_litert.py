from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pqbench.assets.converters import LITERT
from pqbench.backends.litert.backend import LitertBackend
from pqbench.backends.litert.graph import read_nodes
from pqbench.core.artifact import Artifact
from pqbench.core.errors import PlacementError, UnavailableError, UnsupportedError
from pqbench.core.parity import sqnr_db
from pqbench.export import convert, convert_litert
from pqbench.export.reference import torch_outputs
from pqbench.nets.litert_net import LitertNet, Node
from pqbench.testing import check_backend

pytest.importorskip("ai_edge_litert", reason="pip install 'pqbench[litert]'")
needs_converter = pytest.mark.skipif(not LITERT.ready(), reason=LITERT.command)
Feed = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def litert(
    torch_artifact: Artifact, images: Feed, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    return convert(torch_artifact, "litert", images, tmp_path_factory.mktemp("litert"))


@needs_converter
def test_litert_conversion_proves_its_parity(litert: Artifact) -> None:
    assert litert.lineage[-1].details["parity"]["sqnr_db"] > 90
    assert litert.lineage[-1].config["versions"]["litert-torch"] == "0.10.0"


@needs_converter
def test_litert_session_computes_what_torch_does_at_every_batch_size(
    litert: Artifact, torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    session = LitertBackend(2).load(litert, [1, 3])
    for count in (1, 3):
        (got,) = session.run(take(count))
        assert got.dtype == np.float32
        assert sqnr_db(torch_outputs(torch_artifact, take(count))[0], got) > 90
    session.close()


@needs_converter
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_litert_placement_reads_xnnpack_and_threads(litert: Artifact, threads: int) -> None:
    placement = LitertBackend(threads).load(litert, [1]).placement()
    assert placement.threads == threads
    assert (placement.quantizable, placement.integer, placement.int8_macs_share) == (4, 0, 0.0)
    assert placement.nodes["xnnpack"] >= 4
    assert sum(placement.nodes.values()) == sum(placement.kernels.values())


@needs_converter
def test_litert_refuses_other_threads_than_asked(
    litert: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LitertNet.__init__

    def one_more(self: LitertNet, path: Path, shapes: object, threads: int) -> None:
        real(self, path, shapes, threads + 1)  # type: ignore[arg-type]

    monkeypatch.setattr(LitertNet, "__init__", one_more)
    with pytest.raises(PlacementError, match="asked LiteRT for 2 threads, it took 3"):
        LitertBackend(2).load(litert, [1])


@needs_converter
def test_litert_refuses_a_model_that_xnnpack_did_not_take(
    litert: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ai_edge_litert import interpreter

    plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    real = interpreter.Interpreter
    monkeypatch.setattr(
        interpreter, "Interpreter",
        lambda path, **given: real(path, experimental_op_resolver_type=plain, **given),
    )  # fmt: skip
    with pytest.raises(PlacementError, match="XNNPACK took no operator"):
        LitertBackend(1).load(litert, [1])


def test_litert_counts_integer_products_and_their_share_of_the_work() -> None:
    conv = Node("CONV_2D", True, ("int8", "int8", "int32"),
                ((1, 8, 8, 4), (6, 3, 3, 4), (6,)), (1, 8, 8, 6))  # fmt: skip
    depth = Node("DEPTHWISE_CONV_2D", False, ("float32", "float32", "float32"),
                 ((1, 8, 8, 6), (1, 3, 3, 6), (6,)), (1, 8, 8, 6))  # fmt: skip
    placement = read_nodes([conv, depth, Node("ADD", True, ("int8", "int8"), (), ())], 1, {})
    assert (placement.quantizable, placement.integer) == (2, 1)
    assert placement.int8_macs_share == pytest.approx(4 / 5)  # 8*8*6*9*4 of it and 8*8*6*9
    assert placement.nodes == {"xnnpack": 2, "builtin": 1}
    assert placement.float_reasons == {"builtin DEPTHWISE_CONV_2D in f32": 1}


@needs_converter
def test_litert_refuses_batches_where_it_is_told_to(litert: Artifact) -> None:
    with pytest.raises(UnsupportedError, match="one sample a call"):
        LitertBackend(1, batch="refuse").load(litert, [1, 16])


def test_litert_names_a_file_that_it_cannot_load(torch_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"no model")
    damaged = replace(torch_artifact, folder=tmp_path, file="model.tflite", representation="litert")
    with pytest.raises(UnsupportedError, match=r"cannot load model\.tflite"):
        LitertBackend(1).load(damaged, [1])


def test_litert_that_is_missing_is_said_with_the_remedy(
    torch_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = LitertBackend(1).availability()
    assert (found.available, found.hint) == (False, "python -m pqbench.runtimes install litert")
    with pytest.raises(UnavailableError, match="LiteRT's converter, which"):
        convert_litert(torch_artifact, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = LitertBackend(1).availability()
    assert found.reason == "LiteRT is not installed"
    assert found.hint == (
        "pip install 'pqbench[litert]' && python -m pqbench.runtimes install litert"
    )
    with pytest.raises(UnavailableError, match="LiteRT is not installed"):
        convert_litert(torch_artifact, tmp_path)


@needs_converter
def test_litert_keeps_the_contract() -> None:
    check_backend(LitertBackend(1))
