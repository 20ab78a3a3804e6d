"""Static INT8 with LiteRT's own quantizer (AI Edge Quantizer), for backend ``litert``.

https://github.com/google-ai-edge/ai-edge-quantizer
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pqbench.compress.calibration import Calibration, check_size, draw
from pqbench.compress.recipe import FORWARD
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.litert_net import LITERT_FILE, signature


@dataclass(frozen=True)
class LitertInt8(Step):
    """Quantize what LiteRT has integer kernels for; weights per output channel.

    Inputs and outputs become int8 as well: the session rounds and widens them within each call.

    Attributes:
        calibration_size: Training images to calibrate with.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("litert",)
    final: ClassVar[str] = "nothing is made of a LiteRT file any more"
    why_not: ClassVar[Mapping[Representation, str]] = dict.fromkeys(
        FORWARD, "LiteRT's quantizer works on LiteRT files, that nothing else loads"
    )

    calibration_size: int = 300

    def __post_init__(self) -> None:
        check_size(self.calibration_size)

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Calibrate, quantize, save ``model.tflite``.

        Raises:
            UnavailableError: The quantizer is not installed.
            UnsupportedError: The quantizer refuses the model, or finds nothing in it.
        """
        if importlib.util.find_spec("ai_edge_quantizer") is None:
            raise UnavailableError(
                "LiteRT's quantizer is not installed", hint="pip install 'pqbench[litert]'"
            )
        from ai_edge_quantizer import quantizer, recipe

        start = time.perf_counter()
        calibration = draw(artifact, data, self.calibration_size)
        name, inputs = signature(artifact.path)
        try:
            tool = quantizer.Quantizer(str(artifact.path), recipe.static_wi8_ai8())
            ranges = tool.calibrate(
                {name: _Feeds(calibration, inputs)},
                num_threads=data.threads,
            )
            quantized = bytes(tool.quantize(ranges, enable_progress_report=False).quantized_model)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise UnsupportedError(
                f"LiteRT's quantizer refuses this model: {str(error).splitlines()[0][:300]}",
                hint="ort_int8 and nncf_int8 are other tools",
            ) from error
        target = workdir / LITERT_FILE
        target.write_bytes(quantized)
        if target.stat().st_size >= artifact.path.stat().st_size:
            raise UnsupportedError(
                "litert_int8 found nothing to quantize in this model",
                hint="it needs convolutions or matrix products with constant weights",
            )
        entry = LineageEntry(
            action="litert_int8",
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details={**calibration.details(), "tensors": len(ranges)},
        )
        return artifact.derive(workdir, LITERT_FILE, entry)


class _Feeds:
    """Samples under the signature's names; read twice, first to count them."""

    def __init__(self, calibration: Calibration, inputs: Sequence[str]) -> None:
        self._calibration, self._inputs = calibration, inputs

    def __len__(self) -> int:
        return len(self._calibration)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for sample in self._calibration:
            arrays = (sample[name] for name in self._calibration.names)
            yield dict(zip(self._inputs, arrays, strict=True))
