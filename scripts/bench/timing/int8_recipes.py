"""MobileNetV3-Large, whose plain INT8 gains little or nothing on a CPU: why, and what gains more.

Runs each recipe of ``RECIPES`` as an experiment of its own, profiled (``protocol.profile=true``),
against the FP32 baseline of the same backend, and prints two tables: accuracy, size and paired
speedup; and the time by kernel type that says where INT8 loses what its products gain. Finished
experiments are found again, so the command goes on where it was interrupted.

    python scripts/bench/timing/int8_recipes.py --outputs outputs [--only openvino] [KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from record_table import figures, profiles

from pqbench.core.record import Record

COMMON = ("model=mobilenetv3", "dataset=elpv", "tracking=none", "protocol.profile=true")
NNCF = "compress.nncf_int8"
# Name of the folder, backend, recipe and settings.
RECIPES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("ort_int8", "ort", ("compress=ort_int8",)),
    (
        "ort_int8_as_the_tool_has_it",
        "ort",
        (
            "compress=ort_int8",
            "compress.ort_int8.method=minmax",
            "compress.ort_int8.integer_gates=false",
        ),
    ),
    ("ort_partial", "ort", ("compress=partial_int8",)),
    ("ort_int8_products", "ort", ("compress=ort_int8", "compress.ort_int8.op_types=[Conv,Gemm]")),
    ("nncf", "openvino", ("compress=nncf_int8",)),
    ("nncf_mixed", "openvino", ("compress=nncf_int8", f"{NNCF}.preset=mixed")),
    (
        "nncf_depthwise_float",
        "openvino",
        ("compress=nncf_int8", f"{NNCF}.ignored_types=[GroupConvolution]"),
    ),
    (
        "nncf_gates_float",  # the two products of each squeeze-and-excite gate, and the gating
        "openvino",
        ("compress=nncf_int8", f"{NNCF}.ignored_types=[ReduceMean,Multiply,HSigmoid]"),
    ),
    ("ort_int8_file", "openvino", ("compress=ort_int8",)),
    (
        "partial_file",
        "openvino",
        ("compress=partial_int8", "compress.partial_int8.runtime=openvino"),
    ),
    ("pruned", "openvino", ("compress=[prune,finetune]",)),
    ("pruned_nncf", "openvino", ("compress=[prune,finetune,nncf_int8]",)),
)


def main() -> int:
    """Run, print; 3 if an experiment has no record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="runs and cache")
    parser.add_argument("--only", help="recipes or backends, separated by commas")
    parser.add_argument("settings", nargs="*", help="of pqbench, for all: protocol=quick, say")
    chosen = parser.parse_args()
    only = set(chosen.only.split(",")) if chosen.only else None
    records: list[Record] = []
    missing = 0
    for name, backend, settings in RECIPES:
        if only is not None and not only & {name, backend}:
            continue
        folder = chosen.outputs.absolute() / "int8_recipes" / f"{name}_{backend}"
        command = [sys.executable, "-m", "pqbench", *COMMON, f"backend={backend}", *settings]
        command += [f"outputs={chosen.outputs.absolute()}", f"hydra.run.dir={folder}"]
        subprocess.run([*command, *chosen.settings], check=False, stdout=sys.stderr)
        file = folder / "record.json"
        if file.is_file():
            records.append(Record.load(file))
        else:
            missing += 1
            print(f"{name} on {backend} has no record", file=sys.stderr)
    print("\n".join([*figures(records), *profiles(records)]))
    return 3 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
