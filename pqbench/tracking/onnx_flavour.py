"""The deployed ONNX file as an MLflow model, with its signature, and in the registry if asked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

log = logging.getLogger(__name__)
NAME = "onnx"


def log_onnx(run_id: str, model_folder: Path, settings: TrackingSettings) -> str | None:
    """Log the folder's ONNX model with the flavour ``mlflow.onnx``.

    Args:
        run_id: MLflow's run.
        model_folder: Folder of the deployed artifact.
        settings: Which store; ``registered_model`` names the model in the registry.

    Returns:
        URI of the logged model; None if the deployed artifact is no ONNX model.
    """
    files = sorted(model_folder.glob("*.onnx"))
    if not files:
        log.warning("%s holds no ONNX model: nothing for mlflow.onnx", model_folder)
        return None
    import mlflow
    import mlflow.onnx
    import onnx

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(settings.tracking_uri)
    try:
        with mlflow.start_run(run_id=run_id):
            model = onnx.load(str(files[0]))
            info = mlflow.onnx.log_model(
                model,
                name=NAME,
                signature=signature_of(model),
                registered_model_name=settings.registered_model,
                pip_requirements=["onnx", "onnxruntime"],  # without them MLflow would import them
            )
    finally:
        mlflow.set_tracking_uri(before)
    return str(info.model_uri)


def signature_of(model: Any) -> ModelSignature:
    """Names, types and shapes of a graph's inputs and outputs; a free axis is -1."""
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    def spec(value: Any) -> TensorSpec:
        tensor = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        return TensorSpec(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape, value.name)

    weights = {item.name for item in model.graph.initializer}
    inputs: list[ColSpec | TensorSpec] = [
        spec(v) for v in model.graph.input if v.name not in weights
    ]
    return ModelSignature(Schema(inputs), Schema([spec(v) for v in model.graph.output]))
