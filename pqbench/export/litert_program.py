"""PyTorch to LiteRT: a program for the converter's own environment, which knows nothing of pqbench.

``python litert_program.py NETWORK.pt2 MODEL.tflite SHAPES``: SHAPES as JSON, one list for each
input. The network is what ``torch.export.save`` wrote, in core operators (``aten``) alone, whose
form other versions of PyTorch read.
"""

import json
import sys


def main(source: str, target: str, shapes: str) -> None:
    """Convert ``source`` for inputs of these shapes, in float32."""
    import litert_torch
    import torch

    network = torch.export.load(source).module()
    examples = tuple(torch.zeros(shape) for shape in json.loads(shapes))
    litert_torch.convert(network, examples).export(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
