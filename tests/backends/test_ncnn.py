from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from pqbench.backends.ncnn import backend as module
from pqbench.backends.ncnn.backend import NcnnBackend
from pqbench.backends.ncnn.graph import read_layers
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, PlacementError, UnsupportedError
from pqbench.core.parity import sqnr_db
from pqbench.testing import check_backend

pytest.importorskip("ncnn", reason="ncnn is not installed: pip install ncnn pnnx")
pytest.importorskip("pnnx", reason="pnnx is not installed: pip install ncnn pnnx")
Feed = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def ncnn_artifact(onnx_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from pqbench.export import convert_ncnn

    return convert_ncnn(onnx_artifact, tmp_path_factory.mktemp("ncnn"))


def plain(artifact: Artifact, feed: Feed) -> np.ndarray:
    import onnxruntime as ort

    return np.asarray(ort.InferenceSession(artifact.path).run(None, feed)[0])


@pytest.mark.parametrize(("precision", "least_db"), [("f32", 90.0), ("bf16", 25.0)])
def test_ncnn_session_computes_what_onnx_runtime_does_at_every_batch_size(
    ncnn_artifact: Artifact,
    onnx_artifact: Artifact,
    take: Callable[[int], Feed],
    precision: str,
    least_db: float,
) -> None:
    session = NcnnBackend(2, precision).load(ncnn_artifact, [1, 3])
    for count in (1, 3):
        got = session.run(take(count))
        assert len(got) == 1 and got[0].dtype == np.float32
        assert sqnr_db(plain(onnx_artifact, take(count)), got[0]) > least_db
    session.close()


def test_ncnn_stores_bf16_only_where_it_is_asked(
    ncnn_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    exact = NcnnBackend(1, "f32").load(ncnn_artifact, [1]).run(take(1))[0]
    brain = NcnnBackend(1, "bf16").load(ncnn_artifact, [1]).run(take(1))[0]
    assert 25.0 < sqnr_db(exact, brain) < 70.0  # 8 bits of mantissa, and no more


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_ncnn_placement_reads_options_and_layers(ncnn_artifact: Artifact, precision: str) -> None:
    placement = NcnnBackend(2, precision).load(ncnn_artifact, [1]).placement()
    assert placement.precision == precision
    assert placement.threads == 2
    assert placement.quantizable == 4
    assert placement.int8_share == 0.0
    assert placement.float_reasons[f"Convolution in {precision}"] == 2
    assert placement.kernels["ConvolutionDepthWise"] == 1
    assert placement.nodes == {"CPU": sum(placement.kernels.values())}
    assert ("layers_stored_so" in placement.details) == (precision == "bf16")


def test_ncnn_placement_counts_layers_with_integer_scales(tmp_path: object) -> None:
    from pathlib import Path

    param = Path(str(tmp_path)) / "model.ncnn.param"
    param.write_text(
        "7767517\n4 4\n"
        "Input in0 0 1 in0\n"
        "Convolution a 1 1 in0 1 0=16 1=3 8=102 6=432\n"
        "Convolution b 1 1 1 2 0=16 1=3 8=0 6=432\n"
        "InnerProduct c 1 1 2 out0 0=10 2=160\n"
    )
    placement = read_layers(param, "f32", 1, {})
    assert (placement.quantizable, placement.integer) == (3, 1)
    assert placement.float_reasons == {"Convolution in f32": 1, "InnerProduct in f32": 1}


def test_ncnn_refuses_other_options_than_asked(
    ncnn_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = NcnnBackend(2).load(ncnn_artifact, [1])
    taken = SimpleNamespace(
        use_bf16_storage=False, use_fp16_storage=True, num_threads=2, use_vulkan_compute=False
    )
    monkeypatch.setattr(session, "_net", SimpleNamespace(opt=taken))
    with pytest.raises(PlacementError, match=r"it took \{'precision': 'f16'"):
        session.placement()


def test_ncnn_refuses_batches_where_it_is_told_to(ncnn_artifact: Artifact) -> None:
    backend = NcnnBackend(1, batch="refuse")
    backend.load(ncnn_artifact, [1]).close()
    with pytest.raises(UnsupportedError, match="one sample a call") as caught:
        backend.load(ncnn_artifact, [1, 16])
    assert "batch_sizes=[1]" in caught.value.hint


def test_ncnn_says_that_its_converter_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    found = NcnnBackend(1).availability()
    assert not found.available
    assert "pnnx" in found.reason and found.hint == "pip install ncnn pnnx"


@pytest.mark.parametrize("options", [{"precision": "f16"}, {"batch": "all"}])
def test_ncnn_refuses_options_that_cannot_be_meant(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        NcnnBackend(1, **options)


def test_ncnn_keeps_the_contract() -> None:
    check_backend(NcnnBackend(1))
