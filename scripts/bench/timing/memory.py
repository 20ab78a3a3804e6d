"""Memory that pqbench reports for a model beside that of a bare process that only loads and runs.

One torchvision network, exported and converted, in ONNX Runtime, OpenVINO and torch; batch 1, one
thread. The difference is to stay below 5 %.

    python scripts/bench/timing/memory.py [--network squeezenet1_1] [--side 224]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
import bare_session  # noqa: E402
from session_backends import write_split  # noqa: E402

from pqbench.core.artifact import Artifact, TensorSpec  # noqa: E402
from pqbench.core.split import PreparedSplit  # noqa: E402
from pqbench.export import export_onnx  # noqa: E402
from pqbench.export.openvino_convert import convert_openvino  # noqa: E402
from pqbench.nets.checkpoint import build_network, save_network  # noqa: E402
from pqbench.workers.child import child_environment  # noqa: E402
from pqbench.workers.session import SessionWorker  # noqa: E402

TARGETS = {
    "onnxruntime": "pqbench.backends.ort.backend.OrtBackend",
    "openvino": "pqbench.backends.openvino.backend.OpenvinoBackend",
    "torch": "pqbench.backends.torch.backend.TorchBackend",
}


def reported(target: str, artifact: Artifact, split: Path, log: Path) -> dict[str, float]:
    """What a weighed session says."""
    node = {"_target_": target, "threads": 1}
    with SessionWorker.launch(
        node, artifact.folder, split, [1], 1, log, 600, pool_mb=0.0, weighed=True
    ) as worker:
        memory: dict[str, float] = worker.opened().memory(1, 3)["memory"]
    return memory


def bare(runtime: str, model: str, array: Path) -> float:
    """High-water mark of a bare process in MiB."""
    command = [sys.executable, bare_session.__file__, runtime, model, str(array), "1"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=child_environment(1)
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="squeezenet1_1", help="a name in torchvision.models")
    parser.add_argument("--side", type=int, default=224, help="side of the images in pixels")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        builder = {"_target_": f"torchvision.models.{args.network}"}
        spec = TensorSpec("input", (None, 3, args.side, args.side))
        split = write_split(folder / "split", count=4, size=args.side)
        torch = save_network(
            build_network(builder), builder, folder / "torch", (spec,), ("logits",), ()
        )
        example = {"input": np.zeros((2, 3, args.side, args.side), np.float32)}
        onnx = export_onnx(torch, folder / "onnx", example)
        made = {
            "onnxruntime": onnx,
            "openvino": convert_openvino(onnx, folder / "openvino"),
            "torch": torch,
        }
        array = folder / "input.npy"
        np.save(array, PreparedSplit.load(split).feed(slice(0, 1))["input"])
        print(f"{args.network}, batch 1, {args.side} pixels; MiB")
        for runtime, artifact in made.items():
            ours = reported(TARGETS[runtime], artifact, split, folder / f"{runtime}.log")
            model = str(artifact.path)
            if runtime == "torch":
                model = f"torchvision.models:{args.network},{model}"
            theirs = bare(runtime, model, array)
            print(
                f"{runtime:12} peak {ours['rss_peak_mb']:7.1f}, bare {theirs:7.1f}: "
                f"{ours['rss_peak_mb'] / theirs - 1:+.1%}; of it the model "
                f"{ours['rss_model_mb']:.1f}; taken off {ours['harness_mb']:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
