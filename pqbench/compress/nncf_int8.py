"""Static INT8 quantization with NNCF, natively for OpenVINO or as Q/DQ pairs in ONNX.

https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training.html
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.compress.calibration import Calibration, check_size, draw, refuse_quantized
from pqbench.compress.onnx_ready import refuse_half
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData

if TYPE_CHECKING:
    import onnx
    import openvino

Edges = set[tuple[str, str]]  # operator types of all (producer, consumer) pairs
PRESETS = ("performance", "mixed")
ARCHITECTURES = ("auto", "cnn", "transformer")
ATTENTION = {"Attention", "MultiHeadAttention", "GroupQueryAttention", "ScaledDotProductAttention"}


@dataclass(frozen=True)
class NncfInt8(Step):
    """Insert quantizers with ranges from calibration images and correct the biases.

    Attributes:
        calibration_size: Training images to calibrate with.
        preset: ``performance``: symmetric activations, the only ones that TensorRT takes;
            ``mixed``: asymmetric ones after layers that are no ReLU.
        fast_bias_correction: Correct each bias from one pass; False is slower and more exact.
        architecture: ``transformer`` treats attention with care; ``auto`` looks whether the model
            has any.
        per_channel_activations: Scales per channel for depthwise convolutions' inputs in ONNX.
            ONNX Runtime cannot load that (``input zero point must be a scalar``), OpenVINO can;
            native OpenVINO models always have them where NNCF wants them.
        reduce_range: 7-bit weights in all layers (NNCF's overflow fix), for CPUs without VNNI;
            else only in the first.
        ignored_types: Operator types left in float, as the model's format names them
            (``HSwish`` in OpenVINO, ``HardSwish`` in ONNX). One that neither format has is refused;
            those that this model has none of are in the lineage.
        ignored_names: Regular expressions for names of operators left in float; one that matches
            nothing is refused.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("openvino", "onnx")
    why_not: ClassVar[Mapping[Representation, str]] = {
        "torch": "NNCF's torch model computes in float with fake quantizers; integer kernels exist "
        "only for onnx and openvino"
    }

    calibration_size: int = 300
    preset: str = "performance"
    fast_bias_correction: bool = True
    architecture: str = "auto"
    per_channel_activations: bool = False
    reduce_range: bool = False
    ignored_types: Sequence[str] = ()
    ignored_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_size(self.calibration_size)
        for key, allowed in (("preset", PRESETS), ("architecture", ARCHITECTURES)):
            value = getattr(self, key)
            if value not in allowed:
                raise ConfigError(
                    f"nncf_int8.{key} '{value}' is unknown",
                    hint=f"choose one of {', '.join(allowed)}",
                )

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Calibrate, quantize, save; the result has the representation it was given.

        Raises:
            ConfigError: Something that is to be ignored is not there.
            UnsupportedError: The model is quantized already, or nothing in it could be quantized.
        """
        start = time.perf_counter()
        calibration = draw(artifact, data, self.calibration_size)
        if artifact.representation == "openvino":
            file, edges, quantizers = self._openvino(artifact, calibration, workdir)
        else:
            file, edges, quantizers = self._onnx(artifact, calibration, workdir)
        if not quantizers:
            raise UnsupportedError(
                "nncf_int8 found nothing to quantize in this model",
                hint="it needs convolutions or matrix products with constant weights",
            )
        entry = LineageEntry(
            action="nncf_int8",
            seconds=time.perf_counter() - start,
            config=self.plain(),
            details={
                **calibration.details(),
                "quantized_as": artifact.representation,
                "treated_as": "transformer" if self.is_transformer(edges) else "cnn",
                "quantizers": quantizers,
                "ignored_types_absent": self.absent(edges),
            },
        )
        return artifact.derive(workdir, file, entry)

    def _openvino(
        self, artifact: Artifact, calibration: Calibration, workdir: Path
    ) -> tuple[str, Edges, int]:
        import openvino

        model = read_float_model(artifact, "nncf_int8")
        edges = openvino_edges(model)
        quantized = self._quantize(model, calibration, edges, onnx=False)
        # compress_to_fp16 would halve the precision of what stays in float.
        openvino.save_model(quantized, workdir / "model.xml", compress_to_fp16=False)
        return "model.xml", edges, fake_quantizers(quantized)

    def _onnx(
        self, artifact: Artifact, calibration: Calibration, workdir: Path
    ) -> tuple[str, Edges, int]:
        import onnx

        model = onnx.load(artifact.path)
        refuse_quantized(model, "nncf_int8")
        refuse_half(model, "nncf_int8")
        edges = onnx_edges(model)
        quantized = self._quantize(model, calibration, edges, onnx=True)
        onnx.save(quantized, workdir / "model.onnx")
        counts = Counter(node.op_type for node in quantized.graph.node)
        return "model.onnx", edges, counts["DequantizeLinear"]

    def _quantize(self, model: Any, calibration: Calibration, edges: Edges, onnx: bool) -> Any:
        import nncf

        with self.matched():
            quantized: Any = nncf.quantize(
                model,
                nncf.Dataset(calibration),
                subset_size=len(calibration),
                **self.options(edges),
                advanced_parameters=self.advanced(onnx),
            )
        return quantized

    def plain(self) -> dict[str, Any]:
        """The settings, JSON-ready."""
        lists = {key: list(getattr(self, key)) for key in ("ignored_types", "ignored_names")}
        return {**asdict(self), **lists}

    def absent(self, edges: Edges) -> list[str]:
        """Those of the ``ignored_types`` that the model has none of.

        Raises:
            ConfigError: One is an operator type of neither format.
        """
        from nncf.openvino.graph.metatypes.openvino_metatypes import OV_OPERATOR_METATYPES
        from onnx.defs import get_all_schemas

        inside = {kind for edge in edges for kind in edge}
        absent = [kind for kind in self.ignored_types if kind not in inside]
        known = {name for kind in OV_OPERATOR_METATYPES.values() for name in kind.get_all_aliases()}
        known |= {schema.name for schema in get_all_schemas()}
        if strange := set(absent) - known:
            raise ConfigError(
                f"ignored_types: '{min(strange)}' is no operator type of this model, of ONNX or "
                "of OpenVINO",
                hint=f"this model has {', '.join(sorted(filter(None, inside)))}",
            )
        return absent

    @contextmanager
    def matched(self) -> Iterator[None]:
        """Turn NNCF's word that something to be ignored is not there into a ``ConfigError``."""
        import nncf

        try:
            yield
        except nncf.ValidationError as error:
            if not self.ignored_names:
                raise
            raise ConfigError(
                f"ignored_names {list(self.ignored_names)}: {str(error).strip()}",
                hint="they are matched from the start of an operator's name, as a viewer of the "
                "model shows it",
            ) from error

    def options(self, edges: Edges) -> dict[str, Any]:
        """Keyword arguments that ``nncf.quantize`` and its accuracy control share."""
        import nncf

        absent = self.absent(edges)
        transformer = self.is_transformer(edges)
        return {
            "preset": nncf.QuantizationPreset(self.preset),
            "fast_bias_correction": self.fast_bias_correction,
            "model_type": nncf.ModelType.TRANSFORMER if transformer else None,
            "ignored_scope": nncf.IgnoredScope(
                types=[kind for kind in self.ignored_types if kind not in absent],
                patterns=list(self.ignored_names),
            ),
        }

    def advanced(self, onnx: bool) -> Any:
        """NNCF's advanced parameters, for an ONNX model or one of OpenVINO."""
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
            QuantizationParameters,
        )

        advanced = AdvancedQuantizationParameters()
        if onnx and not self.per_channel_activations:
            advanced.activations_quantization_params = QuantizationParameters(per_channel=False)
        if self.reduce_range:
            advanced.overflow_fix = OverflowFix.ENABLE
        return advanced

    def is_transformer(self, edges: Edges) -> bool:
        """Whether the model has attention: a fused operator, or a softmax that feeds a product."""
        if self.architecture != "auto":
            return self.architecture == "transformer"
        kinds = {kind for edge in edges for kind in edge}
        return bool(kinds & ATTENTION) or ("Softmax", "MatMul") in edges


def onnx_edges(model: onnx.ModelProto) -> Edges:
    """Operator types of all (producer, consumer) pairs."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return {
        (made_by.get(name, ""), node.op_type) for node in model.graph.node for name in node.input
    }


def openvino_edges(model: openvino.Model) -> Edges:
    """Operator types of all (producer, consumer) pairs."""
    return {
        (node.input_value(i).get_node().get_type_name(), node.get_type_name())
        for node in model.get_ops()
        for i in range(node.get_input_size())
    }


def read_float_model(artifact: Artifact, step: str) -> openvino.Model:
    """An OpenVINO model with its constants folded.

    Conversion from ONNX leaves the weights of a depthwise convolution behind operators that compute
    their shape. NNCF would put their quantizers after those, where they cannot be stored as
    integers and the layer runs in float.

    Raises:
        UnsupportedError: It is quantized already.
    """
    import openvino
    from openvino.passes import ConstantFolding, Manager

    model = openvino.Core().read_model(artifact.path)
    if fake_quantizers(model):
        raise UnsupportedError(
            f"{step}: the model is quantized already (FakeQuantize)",
            hint="start from the float model",
        )
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    return model


def fake_quantizers(model: openvino.Model) -> int:
    """Number of FakeQuantize operators: those of activations; weights are stored as integers."""
    return sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
