"""A model in ncnn: opening it at a stated precision, and one sample through it.

pnnx names a model's inputs ``in0``, ``in1``, ... and its outputs ``out0``, ... in the order of the
ONNX file. ncnn knows no batch: a network takes one sample, without the batch's axis.

https://github.com/Tencent/ncnn/wiki
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import UnsupportedError

if TYPE_CHECKING:
    import ncnn

PARAM_FILE, BIN_FILE = "model.ncnn.param", "model.ncnn.bin"
PRECISIONS = ("f32", "bf16")


def open_net(param: Path, threads: int, precision: str = "f32") -> ncnn.Net:
    """Load a network for the CPU.

    Args:
        param: The graph; the weights are beside it, the ending ``.bin``.
        threads: OpenMP threads that share one layer.
        precision: How weights and values between layers are stored: ``f32`` or ``bf16``.
            ncnn's own default is float16, which hardly any of its layers for x86 supports.

    Raises:
        UnsupportedError: ncnn cannot read the model.
    """
    import ncnn

    net = ncnn.Net()
    options = net.opt
    options.num_threads = threads
    options.use_vulkan_compute = False
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_packed = options.use_bf16_storage = precision == "bf16"
    weights = param.with_suffix(".bin")
    if net.load_param(str(param)) != 0 or net.load_model(str(weights)) != 0:
        raise UnsupportedError(f"ncnn cannot read {param.name} and {weights.name}")
    return net


def run_sample(
    net: ncnn.Net, sample: Sequence[npt.NDArray[np.float32]], outputs: int
) -> list[npt.NDArray[np.float32]]:
    """One inference on one sample.

    Args:
        net: The network.
        sample: One C-contiguous array per input, without the batch's axis.
        outputs: How many outputs the model has.

    Returns:
        One array per output, without the batch's axis.

    Raises:
        UnsupportedError: A layer fails.
    """
    import ncnn

    extractor = net.create_extractor()
    for number, array in enumerate(sample):
        extractor.input(f"in{number}", ncnn.Mat(array))
    found = []
    for number in range(outputs):
        code, mat = extractor.extract(f"out{number}")
        if code != 0:
            raise UnsupportedError(f"ncnn cannot compute output {number} of this model ({code})")
        found.append(np.array(mat))
    return found


def layers(param: Path) -> list[tuple[str, dict[str, str]]]:
    """Type and parameters of each layer of a ``.param`` file, in order.

    A line is: type, name, number of inputs and of outputs, their names, and ``key=value`` pairs.
    """
    found = []
    for line in param.read_text(encoding="utf-8").splitlines()[2:]:
        words = line.split()
        if words:
            pairs = (word.partition("=") for word in words[4:] if "=" in word)
            found.append((words[0], {key: value for key, _, value in pairs}))
    return found


def unknown_layers(param: Path) -> list[str]:
    """Types of layers that ncnn does not have, in the order of first use."""
    import ncnn

    kinds: dict[str, Any] = dict.fromkeys(kind for kind, _ in layers(param))
    return [kind for kind in kinds if ncnn.layer_to_index(kind) < 0]
