"""Build TensorRT-RTX engines from ONNX files, without a GPU, and say what is in them.

A table in Markdown: for each file its engine in FP32, and of a float file in FP16, too. What can be
looked at without a GPU is the parsed network (inputs, outputs, layers, quantizers), the engine's
size, and what the library itself says of running it here.

    python scripts/rtx_engines.py model.onnx model_int8.onnx
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench.backends.onnx_files import cast_fp16, is_quantized
from pqbench.backends.tensorrt.api import Library, load_library, make_logger, reason
from pqbench.backends.tensorrt.build import BuildOptions, build, parse
from pqbench.core.errors import PqbenchError

KIB = 2**10
BATCHES = (1, 32)


@dataclass(frozen=True)
class Parsed:
    """What the parser made of a file.

    Attributes:
        inputs: Name, shape (-1: free) and type of each, in words.
        outputs: The same.
        kinds: Number of layers of each kind.
        shapes: Shape of each input, by name.
    """

    inputs: str
    outputs: str
    kinds: Counter[str]
    shapes: dict[str, tuple[int, ...]]


def parsed(library: Library, onnx: Path) -> Parsed:
    """Parse a file, strongly typed.

    Raises:
        UnsupportedError: The parser refuses it.
    """
    log = make_logger(library.trt)
    builder = library.trt.Builder(log)  # must live as long as the network
    network, _parser = parse(library, builder, onnx, log)
    given = [network.get_input(i) for i in range(network.num_inputs)]
    made = [network.get_output(i) for i in range(network.num_outputs)]
    kinds = Counter(network.get_layer(i).type.name.lower() for i in range(network.num_layers))
    return Parsed(
        ", ".join(_tensor(t) for t in given),
        ", ".join(_tensor(t) for t in made),
        kinds,
        {t.name: tuple(t.shape) for t in given},
    )


def _tensor(tensor: Any) -> str:
    shape = ", ".join("N" if size < 0 else str(size) for size in tensor.shape)
    return f"{tensor.name} ({shape}) {tensor.dtype.name.lower()}"


def runs_here(library: Library, plan: bytes) -> str:
    """What the library says when an engine is to be loaded: `yes`, or its reason."""
    log = make_logger(library.trt)
    runtime = library.trt.Runtime(log)
    if runtime.deserialize_cuda_engine(plan) is not None:
        return "yes"
    said = reason(log)
    cause = re.search(r"cudaError \d+: [^()]*", said)
    return f"no: {cause.group() if cause else said}"


def row(library: Library, onnx: Path, name: str, precision: str) -> str:
    """One line of the table; a file that is refused has the reason in it."""
    size = f"{onnx.stat().st_size / KIB:.0f}"
    try:
        network = parsed(library, onnx)
        ranges = {
            key: tuple((batch, *shape[1:]) for batch in (BATCHES[0], BATCHES[-1], BATCHES[-1]))
            for key, shape in network.shapes.items()
        }
        engine = build(library, onnx, [ranges], BuildOptions(precision=precision))  # type: ignore[list-item]
    except PqbenchError as error:
        return f"| {name} | {size} | refused: {error.message.replace('|', '/')} | | | | | |"
    quantizers = network.kinds["quantize"] + network.kinds["dequantize"]
    cells = [
        name,
        size,
        f"{len(engine.plan) / KIB:.0f}",
        f"{engine.build_s:.1f}",
        network.inputs,
        network.outputs,
        f"{network.kinds['convolution']} of {sum(network.kinds.values())}, {quantizers} quantizers",
        runs_here(library, engine.plan).replace("|", "/"),
    ]
    return f"| {' | '.join(cells)} |"


def engines(files: Sequence[Path]) -> list[str]:
    """The table of some ONNX files, as lines of Markdown.

    Raises:
        UnavailableError: TensorRT-RTX is not installed.
    """
    library = load_library("tensorrt_rtx")
    lines = [
        f"TensorRT-RTX {library.version}; batch {BATCHES[0]} to {BATCHES[-1]}, tuned for "
        f"{BATCHES[-1]}; for every GPU that it supports.",
        "",
        "| engine of | ONNX KiB | engine KiB | built in s | inputs | outputs "
        "| convolutions of all layers | runs here |",
        "| --- | ---: | ---: | ---: | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            lines.append(row(library, file, f"{file.stem}, as it is", "fp32"))
            if not is_quantized(file):
                half = cast_fp16(file, Path(folder) / f"{file.stem}.onnx")
                lines.append(row(library, half, f"{file.stem}, FP16", "fp16"))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    print("\n".join(engines(parser.parse_args().files)))


if __name__ == "__main__":
    main()
