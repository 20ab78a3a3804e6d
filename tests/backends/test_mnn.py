from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

from pqbench.backends.mnn.backend import MnnBackend
from pqbench.backends.mnn.graph import read_operators
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, PlacementError
from pqbench.core.parity import sqnr_db
from pqbench.measure.denormals import flush_denormals
from pqbench.nets.mnn_net import MnnNet
from pqbench.testing import check_backend

pytest.importorskip("MNN", reason="MNN is not installed: pip install MNN")
Feed = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def mnn_artifact(onnx_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from pqbench.export import convert_mnn

    return convert_mnn(onnx_artifact, tmp_path_factory.mktemp("mnn"))


@pytest.mark.parametrize("winograd", [0, 3])
def test_mnn_session_computes_what_onnx_runtime_does_at_every_batch_size(
    mnn_artifact: Artifact, onnx_artifact: Artifact, take: Callable[[int], Feed], winograd: int
) -> None:
    import onnxruntime as ort

    plain = ort.InferenceSession(onnx_artifact.path)
    session = MnnBackend(2, winograd).load(mnn_artifact, [1, 4])
    for count in (1, 3, 4):  # 3 was not announced
        got = session.run(take(count))
        assert len(got) == 1 and got[0].dtype == np.float32
        assert sqnr_db(np.asarray(plain.run(None, take(count))[0]), got[0]) > 90.0
    session.close()


def test_mnn_outputs_survive_the_next_run(mnn_artifact: Artifact, images: Feed) -> None:
    session = MnnBackend(1).load(mnn_artifact, [1])
    first = session.run({"image": images["image"][:1]})[0]
    kept = first.copy()
    session.run({"image": images["image"][1:2]})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("threads", [1, 2])
def test_mnn_placement_reads_device_threads_and_operators(
    mnn_artifact: Artifact, threads: int
) -> None:
    placement = MnnBackend(threads).load(mnn_artifact, [1, 4]).placement()
    assert placement.threads == threads
    assert placement.details["device"] in ("CPU", "CPU extension")
    assert placement.quantizable == 4
    assert placement.int8_share == 0.0
    assert placement.kernels["ConvolutionDepthwise"] == 1
    assert placement.nodes == {"CPU": sum(placement.kernels.values())}


def test_mnn_tells_its_threads_where_subnormals_are_flushed(mnn_artifact: Artifact) -> None:
    """The binding hands the number over as a subnormal float; sessions are timed without these."""
    told: list[int | None] = []

    def load() -> None:  # in a thread, whose floating-point environment ends with it
        if not flush_denormals():
            told.extend([2, 0])  # nothing to prove on this platform
            return
        told.append(MnnBackend(2).load(mnn_artifact, [1]).placement().threads)
        told.append(int(np.float32(1e-40) * np.float32(1.0) != 0.0))

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert told == [2, 0]  # and still flushed afterwards


def test_mnn_counts_integer_operators() -> None:
    placement = read_operators(["ConvInt8", "Convolution", "ReLU", "DepthwiseConvInt8"], 1, {})
    assert (placement.quantizable, placement.integer) == (3, 2)
    assert placement.float_reasons == {"Convolution in f32": 1}
    own = ["Convolution [ DT_INT8 ] ", "BinaryOp [ DT_INT8 ] ", "Convolution", "FloatToInt8"]
    placement = read_operators(own, 1, {})
    assert (placement.quantizable, placement.integer) == (2, 1)


@pytest.mark.parametrize(
    ("member", "value", "message"), [("device", "MNN's device 3", "the CPU"), ("threads", 5, "5")]
)
def test_mnn_load_fails_where_the_runtime_takes_something_else(
    mnn_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    member: str,
    value: object,
    message: str,
) -> None:
    monkeypatch.setattr(MnnNet, member, lambda self: value)
    with pytest.raises(PlacementError, match=f"asked MNN for .*{message}"):
        MnnBackend(2).load(mnn_artifact, [1])


def test_mnn_profile_names_every_operator_type(
    mnn_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    session = MnnBackend(1).load(mnn_artifact, [4])
    profile = session.profile(take(4), 2)
    assert set(profile) == set(session.placement().kernels)
    assert all(ms >= 0 for ms in profile.values())


def test_mnn_refuses_options_that_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match="winograd=4 is not possible"):
        MnnBackend(1, 4)


def test_mnn_keeps_the_contract() -> None:
    check_backend(MnnBackend(1))


def test_mnn_availability_prints_nothing() -> None:
    script = (
        "from pqbench.backends.mnn.backend import MnnBackend\n"
        "print(MnnBackend().availability().available)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"
