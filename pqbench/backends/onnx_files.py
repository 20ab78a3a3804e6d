"""What GPU runtimes want of an ONNX file before they take it: its kind, and half precision."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from pqbench.core.artifact import Artifact, TensorSpec


def engine_folder(artifact: Artifact, chosen: str | None) -> Path:
    """Folder for engines and timing caches: beside the folder of the stages that made the model.

    That is ``cache/engines`` for a cached artifact, and the run's own folder otherwise.

    Args:
        artifact: The deployed model.
        chosen: The user's own folder, or None.
    """
    return Path(chosen) if chosen else artifact.folder.absolute().parent.parent / "engines"


def is_quantized(path: Path) -> bool:
    """Whether an ONNX file has quantize/dequantize pairs (Q/DQ)."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)


def cast_fp16(source: Path, target: Path) -> Path:
    """Write an ONNX model with float16 weights and operators, inputs and outputs in float32.

    By ``onnxruntime.transformers.float16``, which leaves operators without a float16 form in
    float32. The file is written aside and renamed; an existing ``target`` is kept.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if target.is_file():
        return target
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one line for each weight below float16's smallest
        model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".tmp")
    onnx.save(model, aside)
    aside.replace(target)
    return target


def write_aside(path: Path, content: bytes) -> None:
    """Write aside and rename, so that another process never reads half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_bytes(content)
    aside.replace(path)


def shape_at(spec: TensorSpec, batch_size: int) -> tuple[int, ...]:
    """The shape of an input at one batch size; other free sizes are taken as 1."""
    return (batch_size, *(size or 1 for size in spec.shape[1:]))


def profile_text(specs: Sequence[TensorSpec], batch_size: int) -> str:
    """Shapes as ONNX Runtime's providers take them: ``image:16x3x224x224,mask:16x8``."""
    return ",".join(
        f"{spec.name}:{'x'.join(str(n) for n in shape_at(spec, batch_size))}" for spec in specs
    )
