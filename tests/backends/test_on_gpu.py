"""What only a GPU can show: run by ``scripts/gpu_check.py`` on a machine that has one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pqbench.backends.ort.gpu import OrtCudaBackend, OrtTensorrtBackend, OrtTensorrtRtxBackend
from pqbench.backends.tensorrt.backend import TensorrtBackend
from pqbench.backends.torch.backend import TorchBackend
from pqbench.backends.torch_tensorrt.backend import TorchTensorrtBackend
from pqbench.core.artifact import Artifact
from pqbench.core.backend import Backend
from pqbench.core.errors import UnavailableError
from pqbench.export import torch_outputs
from pqbench.machine.cuda_driver import gpu

pytestmark = pytest.mark.gpu
Feed = dict[str, np.ndarray]

BACKENDS = {
    "torch": lambda folder: TorchBackend(1, device="cuda"),
    "torch_channels_last": lambda folder: TorchBackend(1, device="cuda", channels_last=True),
    "torch_fp16": lambda folder: TorchBackend(1, device="cuda", precision="fp16"),
    "torch_half": lambda folder: TorchBackend(1, device="cuda", precision="fp16", amp=False),
    "torch_bf16": lambda folder: TorchBackend(1, device="cuda", precision="bf16"),
    "torchscript": lambda folder: TorchBackend(1, device="cuda", mode="script"),
    "torch_compile": lambda folder: TorchBackend(1, device="cuda", mode="compile"),
    "ort_cuda": lambda folder: OrtCudaBackend(threads=1, engine_cache=folder),
    "ort_cuda_fp16": lambda f: OrtCudaBackend(threads=1, precision="fp16", engine_cache=f),
    "ort_tensorrt": lambda folder: OrtTensorrtBackend(threads=1, engine_cache=folder),
    "ort_tensorrt_rtx": lambda folder: OrtTensorrtRtxBackend(threads=1, engine_cache=folder),
    "torch_tensorrt": lambda folder: TorchTensorrtBackend(1, engine_cache=folder),
    "torch_tensorrt_fp16": lambda folder: TorchTensorrtBackend(
        1, precision="fp16", engine_cache=folder
    ),
    "torch_tensorrt_amp_fp16": lambda folder: TorchTensorrtBackend(
        1, precision="fp16", amp=True, engine_cache=folder
    ),
    **{
        f"{library}_{kind}": lambda folder, library=library, options=options: TensorrtBackend(
            1, library=library, engine_cache=folder, **options
        )
        for library in ("tensorrt", "tensorrt_rtx")
        for kind, options in {
            "static": {},
            "dynamic": {"shapes": "dynamic"},
            "fp16": {"precision": "fp16"},
            "graph": {"cuda_graph": True},
            "cuda_python": {"buffers": "cuda_python"},
            "pycuda": {"buffers": "pycuda"},
        }.items()
    },
}


@pytest.mark.parametrize("name", BACKENDS)
def test_backend_computes_on_the_gpu_what_torch_does_on_the_cpu(
    name: str,
    torch_artifact: Artifact,
    onnx_artifact: Artifact,
    take: Callable[[int], Feed],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    backend: Backend = BACKENDS[name](str(tmp_path_factory.mktemp("engines")))
    found = backend.availability()
    if not found.available:
        pytest.skip(found.reason)
    artifact = torch_artifact if "torch" in backend.loads else onnx_artifact
    try:
        session = backend.load(artifact, [1, 4])
    except UnavailableError as error:  # a package, or a library that does not know this card
        pytest.skip(error.message)
    loose = any(word in name for word in ("16", "half"))
    for count in (1, 4, 3, 1):
        [got] = session.run(take(count))
        exact = torch_outputs(torch_artifact, take(count))[0]
        np.testing.assert_allclose(got, exact, atol=0.05 if loose else 1e-3)
    placement = session.placement()
    assert sum(placement.nodes.values()) > 0
    assert not any("cpu" in where.lower() for where in placement.nodes)
    assert session.profile(take(4), 2)
    call = session.device_call(take(4))
    assert call is not None
    call()
    [again] = session.run(take(4))
    np.testing.assert_allclose(again, torch_outputs(torch_artifact, take(4))[0], atol=0.05)
    session.close()


def test_driver_describes_its_gpu() -> None:
    try:
        card = gpu()
    except UnavailableError as error:
        pytest.skip(error.message)
    assert card.name and card.capability.count(".") == 1 and card.driver.count(".") == 1
    with pytest.raises(UnavailableError, match="cuda:99 is not among them"):
        gpu(99)
