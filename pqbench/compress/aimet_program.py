"""Qualcomm's AIMET: a program for its own environment, which knows nothing of pqbench.

``python aimet_program.py JOB.json``: see ``own_interpreter.py``.
"""

import json
import sys
from pathlib import Path


def main(path: str) -> None:
    """Quantize the job's model, round its weights adaptively if asked, write Q/DQ pairs."""
    import aimet_onnx
    import numpy as np
    import onnx
    import onnxruntime
    import torch

    job = json.loads(Path(path).read_text(encoding="utf-8"))
    settings = job["settings"]
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    np.random.seed(settings["seed"])  # AIMET draws its batches with it
    arrays = {name: np.load(file, mmap_mode="r") for name, file in job["samples"].items()}
    count = len(next(iter(arrays.values())))
    feeds = [
        {name: np.array(array[i : i + 1]) for name, array in arrays.items()} for i in range(count)
    ]
    exact = onnx.load(job["model"])
    fixed = exact.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    model = aimet_onnx.QuantizationSimModel(
        exact,
        param_type="int8",
        activation_type="int8",
        quant_scheme=settings["scheme"],
        config_file="default",
        dummy_input=feeds[0],
        providers=["CPUExecutionProvider"],
    )
    model.compute_encodings(feeds)
    if settings["adaround"]:
        # Evenly spread: the images lie class by class in many data sets. Each iteration looks at
        # one batch.
        images = min(settings["images"], count)
        chosen = [i * count // images for i in range(images)]
        number = images if fixed else -(-images // settings["batch"])
        batches = [
            {name: np.array(array[chosen[i::number]]) for name, array in arrays.items()}
            for i in range(number)
        ]
        aimet_onnx.apply_adaround(model, batches, settings["iterations"])
        model.compute_encodings(feeds)
    # Weights and biases are stored as integers, not as floats with a quantizer behind.
    pairs = model.to_onnx_qdq(prequantize_constants=True, export_int32_bias=True)
    onnx.save(pairs, job["target"])
    used = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
    Path(job["report"]).write_text(json.dumps({"versions": used}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
