"""What TensorRT's engine inspector tells of an engine's layers."""

from __future__ import annotations

import json

FLOATS = {"float": "f32", "fp32": "f32", "half": "f16", "fp16": "f16", "bf16": "bf16"}
PRODUCTS = ("conv", "gemm", "matmul", "matrixmultiply", "fullyconnected", "deconv", "mha")


def is_product(kind: str) -> bool:
    """Whether a layer of that type is a convolution or a matrix product."""
    return any(word in kind.lower().replace("_", "") for word in PRODUCTS)


def read_layers(text: str) -> list[tuple[str, set[str]]]:
    """Layer type and element types of the inputs, from the engine inspector's JSON.

    Args:
        text: ``{"Layers": [...]}``; a layer is an object, or only its name if the engine was built
            without details.

    Returns:
        One pair per layer; types in lower case (``int8``, ``half``, ``float``).
    """
    layers = json.loads(text).get("Layers", [])
    found = []
    for layer in layers:
        if isinstance(layer, str):
            continue
        formats = [str(t.get("Format/Datatype", "")) for t in layer.get("Inputs", [])]
        words = {w.lower() for f in formats for w in f.replace("/", " ").split()[:1]}
        found.append((str(layer.get("ParameterType") or layer.get("LayerType") or "?"), words))
    return found
