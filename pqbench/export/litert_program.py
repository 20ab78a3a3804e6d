"""ONNX to LiteRT: a program for the converter's own environment, which knows nothing of pqbench.

``python litert_program.py MODEL.onnx MODEL.tflite SHAPES``: SHAPES as JSON, one list for each
input. The ONNX file becomes a PyTorch module (onnx2torch), that a LiteRT file (litert-torch).
"""

import json
import sys


def main(source: str, target: str, shapes: str) -> None:
    """Convert ``source`` for inputs of these shapes, in float32."""
    import litert_torch
    import onnx
    import torch
    from onnx2torch import convert

    network = convert(onnx.load(source)).eval()
    examples = tuple(torch.zeros(shape) for shape in json.loads(shapes))
    litert_torch.convert(network, examples).export(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
