"""NVIDIA's Model Optimizer: a program for its own environment, which knows nothing of pqbench.

``python modelopt_program.py JOB.json``: see ``own_interpreter.py``.
"""

import json
import sys
from pathlib import Path


def main(path: str) -> None:
    """Quantize the job's model by the documentation's recipe, on the CPU."""
    import numpy as np
    import onnx
    import onnxruntime
    from modelopt.onnx.quantization import quantize

    job = json.loads(Path(path).read_text(encoding="utf-8"))
    settings = job["settings"]
    quantize(
        onnx_path=job["model"],
        output_path=job["target"],
        quantize_mode=settings["precision"],
        calibration_data={name: np.load(file) for name, file in job["samples"].items()},
        calibration_method=settings["method"],
        calibration_eps=["cpu"],
        high_precision_dtype=settings["high_precision"],
        dq_only=True,  # weights are stored as integers, not as floats with a quantizer behind
        log_level="WARNING",
    )
    used = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
    Path(job["report"]).write_text(json.dumps({"versions": used}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
