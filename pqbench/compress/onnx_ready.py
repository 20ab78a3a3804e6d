"""What the steps on ONNX files share: preparing a graph for the tools, and honest refusals."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pqbench.core.errors import UnsupportedError
from pqbench.nets import onnx_graph
from pqbench.nets.onnx_parameters import count_parameters

if TYPE_CHECKING:
    import onnx

LEAST_SHARE = 0.5  # of the weights that a step must reach, or it would say what it has not done


def pre_process(source: Path, target: Path, step: str) -> bool:
    """ONNX Runtime's own preparation (shape inference, optimization) for quantization.

    Symbolic shape inference gives up on graphs that ONNX Runtime itself runs (``Concat`` along axis
    -1 of shapes, sequences); it is left out then, as ``quant_pre_process`` allows.

    Args:
        source: The model.
        target: File to write.
        step: Name of the step, for messages.

    Returns:
        Whether symbolic shape inference was done.

    Raises:
        UnsupportedError: The model cannot be prepared either way.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quiet = logging.getLogger("onnxruntime.tools.symbolic_shape_infer")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        # Where it gives up it saves what it has in the current folder, which is the user's.
        source, target = source.absolute(), target.absolute()
        with (
            tempfile.TemporaryDirectory() as aside,
            contextlib.chdir(aside),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            try:
                quant_pre_process(source, target)
                return True
            except Exception:  # an assertion, a KeyError, ...: it has no error class of its own
                logging.getLogger(__name__).debug("no symbolic shapes", exc_info=True)
            try:
                quant_pre_process(source, target, skip_symbolic_shape=True)
            except Exception as error:  # as above
                text = " ".join(str(error).split())
                raise UnsupportedError(
                    f"{step}: ONNX Runtime cannot prepare this graph for quantization: "
                    f"{type(error).__name__} {text[:300]}",
                    hint="export the model with another exporter or opset, or use nncf_int8",
                ) from error
    finally:
        quiet.setLevel(level)
    return False


@contextlib.contextmanager
def tool_refusals(step: str, hint: str) -> Iterator[None]:
    """Say in one line what a tool stumbles over; errors of pqbench's own pass.

    ONNX Runtime's quantizer has no error class: a graph that it does not expect ends in whatever
    Python raises.

    Raises:
        UnsupportedError: The tool raised one of those.
    """
    try:
        yield
    except Exception as error:
        odd = (ValueError, TypeError, LookupError, AttributeError, AssertionError)
        if not isinstance(error, odd) and not type(error).__module__.startswith("onnx"):
            raise
        text = " ".join(str(error).split())
        raise UnsupportedError(
            f"{step}: the tool cannot quantize this graph: {type(error).__name__}: {text[:200]}",
            hint=hint,
        ) from error


def refuse_half(model: onnx.ModelProto, step: str) -> None:
    """Raise ``UnsupportedError`` if most weights are float16 already."""
    known = onnx_graph.constants(model.graph)
    kinds = [(known[n].data_type, onnx_graph.numbers(known[n]))
             for n in onnx_graph.layer_weights(model.graph)]  # fmt: skip
    half = sum(count for kind, count in kinds if kind in (10, 16))  # FLOAT16, BFLOAT16
    if half > LEAST_SHARE * sum(count for _, count in kinds):
        raise UnsupportedError(
            f"{step}: the model's weights are float16", hint="start from the float32 file"
        )


def require_share(
    reached: int, model: onnx.ModelProto, step: str, verb: str, tables: bool = True
) -> float:
    """The share of a model's parameters that a step has reached.

    Args:
        reached: Parameters that it has.
        model: The model before it.
        step: Name of the step, for messages.
        verb: What it does.
        tables: Whether it should reach embeddings, too.

    Raises:
        UnsupportedError: It is less than half: the step would claim what it has not done.
    """
    total = count_parameters(model).parameters
    if not tables:
        total -= onnx_graph.table_size(model.graph)
    share = reached / total if total else 0.0
    if share < LEAST_SHARE:
        raise UnsupportedError(
            f"{step} {verb} {reached:,} of {total:,} parameters ({share:.1%}) in this graph: next "
            "to none",
            hint="the rest is in operators that it does not know, or in If and Loop bodies; export "
            "the model with constant folding (do_constant_folding=True)",
        )
    return share
