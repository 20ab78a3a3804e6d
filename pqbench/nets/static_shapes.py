"""What converters for small devices ask of a model's inputs."""

from __future__ import annotations

from pqbench.core.artifact import Artifact
from pqbench.core.errors import UnsupportedError


def static_shapes(artifact: Artifact, runtime: str, batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs at one batch size, by name.

    Raises:
        UnsupportedError: An input is not float32, or a size other than the batch is free.
    """
    found = {}
    for spec in artifact.inputs:
        if spec.dtype != "float32":
            raise UnsupportedError(
                f"pqbench feeds {runtime} float32 inputs alone, '{spec.name}' is {spec.dtype}",
                hint="use backend=ort or backend=openvino for this model",
            )
        sizes = [size for size in spec.shape[1:] if size is not None]
        if len(sizes) != len(spec.shape) - 1:
            raise UnsupportedError(
                f"{runtime} wants fixed sizes, '{spec.name}' has the shape {spec.shape}",
                hint="export the model with fixed sizes, the batch aside",
            )
        found[spec.name] = (batch, *sizes)
    return found
