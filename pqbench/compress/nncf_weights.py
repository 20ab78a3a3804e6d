"""Weight-only compression with NNCF for OpenVINO: integer weights, float arithmetic.

https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/weight-compression.html
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData

if TYPE_CHECKING:
    import openvino

MODES = ("int8_asym", "int8_sym", "int4_asym", "int4_sym")
INTEGERS = ("i8", "u8", "i4", "u4")


@dataclass(frozen=True)
class NncfWeights(Step):
    """Store weights as 8- or 4-bit integers, which are widened to float before each product.

    Attributes:
        mode: ``int8_asym``, ``int8_sym``, ``int4_asym`` or ``int4_sym``. 4 bits apply to matrix
            products alone; other layers stay at 8 bits, and a model without a matrix product of a
            fitting size is refused rather than left at 8 bits in silence.
        ratio: Share of the layers that get 4 bits, in (0, 1]; unused at 8 bits.
        group_size: Weights that share a scale at 4 bits; -1 for one scale per output channel.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("openvino",)
    why_not: ClassVar[Mapping[Representation, str]] = {
        "onnx": "ONNX Runtime cannot load what nncf.compress_weights writes to ONNX",
        "torch": "nncf.compress_weights is wired for OpenVINO only",
    }
    limits: ClassVar[Sequence[str]] = (
        "4-bit modes on networks whose only matrix product is the last layer, as most CNNs: "
        "that layer always stays at 8 bits",
    )

    mode: str = "int8_asym"
    ratio: float = 1.0
    group_size: int = -1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"nncf_weights.mode '{self.mode}' is unknown",
                hint=f"choose one of {', '.join(MODES)}",
            )
        if not 0.0 < self.ratio <= 1.0:
            raise ConfigError(f"nncf_weights.ratio must lie in (0, 1], got {self.ratio}")
        if self.group_size != -1 and self.group_size < 1:
            raise ConfigError(f"nncf_weights.group_size must be -1 or above, got {self.group_size}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:  # noqa: ARG002
        """Compress and save ``model.xml``.

        Raises:
            UnsupportedError: Nothing was compressed, or nothing to the 4 bits asked for.
        """
        import nncf
        import openvino

        start = time.perf_counter()
        model = openvino.Core().read_model(artifact.path)
        options: dict[str, Any] = {}
        if self.mode.startswith("int4"):
            options = {"ratio": self.ratio, "group_size": self.group_size}
        compressed = nncf.compress_weights(
            model, mode=nncf.CompressWeightsMode(self.mode), **options
        )
        counts = integer_constants(compressed)
        wanted = INTEGERS[2:] if self.mode.startswith("int4") else INTEGERS
        if not any(counts[kind] for kind in wanted):
            raise UnsupportedError(
                f"nncf_weights: no layer of this model was compressed to {self.mode}",
                hint="use mode=int8_asym" if any(counts.values()) else "use another step",
            )
        openvino.save_model(compressed, workdir / "model.xml", compress_to_fp16=False)
        entry = LineageEntry(
            action="nncf_weights",
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details={"integer_constants": dict(counts)},
        )
        return artifact.derive(workdir, "model.xml", entry)


def integer_constants(model: openvino.Model) -> Counter[str]:
    """Number of constants of each 8- and 4-bit integer type that have at least two dimensions."""
    found: Counter[str] = Counter()
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) > 1:
            kind = node.get_output_element_type(0).get_type_name()
            if kind in INTEGERS and max(node.get_output_shape(0)) > 1:
                found[kind] += 1
    return found
