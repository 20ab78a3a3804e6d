"""Which of a file's outputs is scored, and what its numbers are.

By shape first: one number per class and sample, trailing ones dropped. Then by what computes it,
then by name. Where two remain, the user is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.models.onnx.inputs import LATENCY_ONLY, shape_text
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

IMAGENET = 1000
BACKGROUND = 1001  # TensorFlow's: class 0 is none of ImageNet's
LOGITS, PROBABILITIES, CLASS_IDS = "logits", "probabilities", "class_ids"
PASSING = (*onnx_graph.MOVES, "Gather", "Slice", "QuantizeLinear", "DequantizeLinear")
SCORE_NAMES = ("logit", "score", "class", "cls", "pred", "prob", "softmax", "output")
FEATURE_NAMES = ("feat", "embed", "hidden", "aux", "pool", "mask")
DENSE = "segmentation"
ROWS = ("classification", "text_classification")
Values = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Scored:
    """The output that is scored, after the graph was fitted to it.

    Attributes:
        name: Its name in the fitted graph.
        given: Its name in the file.
        kind: ``logits``, ``probabilities`` (a softmax or sigmoid is at the end) or ``class_ids``
            (an ArgMax is).
        head: ``kept``, ``sliced`` to the data set's classes, or ``binary`` (one number that
            became two columns).
        notes: What was assumed.
    """

    name: str
    given: str
    kind: str
    head: str
    notes: tuple[str, ...] = field(default=())


def scored_output(
    model: onnx.ModelProto,
    values: Values,
    classes: Sequence[str],
    imagenet_indices: Sequence[int] | None,
    task: str,
    wanted: str | None,
    name: str,
    lost_rows: Sequence[str] = (),
) -> Scored:
    """Find the output that holds the scores and make it the graph's only one, (n, classes, ...).

    Args:
        model: Changed in place.
        values: Each tensor output's values on some samples, the samples first.
        classes: The data set's class names.
        imagenet_indices: Each class's index in a 1000-way ImageNet output; None for other classes.
        task: ``segmentation``: classes per pixel; any other: one row per sample.
        wanted: ``model.output``.
        name: The file's name, for messages.
        lost_rows: Outputs that lose the axis of samples at batch 1.

    Raises:
        ConfigError: ``model.output`` names none of them.
        UnsupportedError: None fits the classes, or several do.
    """
    outputs = [value.name for value in model.graph.output]
    if wanted is not None and wanted not in outputs:
        raise ConfigError(f"model.output={wanted}: {name} gives {', '.join(outputs)}")
    candidates = {n: v for n, v in values.items() if wanted in (None, n)}
    sizes = {len(classes), *((IMAGENET, BACKGROUND) if imagenet_indices is not None else ())}
    fits = {n: _columns(v, task) for n, v in candidates.items()}
    chosen = _choose(
        model, [n for n, v in candidates.items() if fits[n] in sizes and not _integer(v)], name
    )
    if chosen is None:
        chosen = _choose(
            model,
            [
                n
                for n, v in candidates.items()
                if fits[n] == 1 and (_integer(v) or (len(classes) == 2 and task != DENSE))
            ],
            name,
        )
    if chosen is None:
        raise UnsupportedError(
            f"{name}: no output holds one score per class: "
            f"{'; '.join(f'{n} {shape_text(_free(v))}' for n, v in candidates.items()) or 'none'}; "
            f"the data set has {len(classes)} classes",
            hint=f"a classifier gives (N, {len(classes)}); {LATENCY_ONLY}",
        )
    array = values[chosen]
    edit = _Edit(model, chosen)
    kind = _kind(model, chosen, array, task)
    notes = []
    others = [output for output in outputs if output != chosen]
    if others:
        notes.append(
            f"output {chosen} is scored; {', '.join(others)} taken off the model that is measured "
            "(model.output names another)"
        )
    head = "kept"
    if task == DENSE:
        edit.dense(array)
        if fits[chosen] == IMAGENET != len(classes):
            raise UnsupportedError(f"{name}: {IMAGENET} classes per pixel, {len(classes)} wanted")
    elif kind == CLASS_IDS:
        edit.one_hot(array, len(classes))
        notes.append(
            f"output {chosen} holds class numbers (ArgMax): scored as they are, no probabilities"
        )
    elif fits[chosen] == 1:
        head = "binary"
        edit.two_columns(array, kind)
        notes.append(
            f"output {chosen} is one {'probability' if kind == PROBABILITIES else 'logit'} per "
            f"sample: taken as that of class '{classes[1]}'"
        )
    else:
        edit.rows(array, again=chosen in lost_rows)
        if fits[chosen] != len(classes):
            head = "sliced"
            offset = int(fits[chosen] == BACKGROUND)
            edit.gather(np.asarray(imagenet_indices, np.int64) + offset)
            if offset:
                notes.append(f"output {chosen} has {BACKGROUND} classes: the first is background")
    if chosen in lost_rows and task != DENSE:
        notes.append(f"at batch 1 output {chosen} loses the axis of samples (Squeeze): put back")
    edit.finish(None if task == DENSE else len(classes))
    if task not in ROWS:
        kind = LOGITS  # only those tasks make probabilities of them
    return Scored(edit.name, chosen, kind, head, tuple(notes))


def _integer(value: npt.NDArray[Any]) -> bool:
    return bool(np.issubdtype(value.dtype, np.integer))


def _free(value: npt.NDArray[Any]) -> tuple[int | None, ...]:
    return (None, *value.shape[1:]) if value.ndim else ()


def _columns(value: npt.NDArray[Any], task: str) -> int | None:
    """Scores per sample (or per pixel); None where it holds no scores at all."""
    if value.ndim == 0 or value.dtype == bool or value.dtype.kind not in "fiu":
        return None
    if task == DENSE:
        if _integer(value):
            return 1 if value.ndim in (3, 4) else None
        return value.shape[1] if value.ndim == 4 else None
    if sum(size != 1 for size in value.shape[1:]) > 1:
        return None
    return int(np.prod(value.shape[1:], dtype=np.int64))


def _choose(model: onnx.ModelProto, names: Sequence[str], file: str) -> str | None:
    """The one among several fitting outputs; None if there is none."""
    if len(names) < 2:
        return names[0] if names else None
    made_by = onnx_graph.producers(model.graph)
    # A softmax of another candidate says the same as that one, which is the logits.
    rest = [n for n in names if _origin(n, made_by) not in names]
    rest = rest or list(names)
    if len(rest) == 1:
        return rest[0]
    for words, wanted in ((FEATURE_NAMES, False), (SCORE_NAMES, True)):
        named = [n for n in rest if any(w in n.lower() for w in words) is wanted]
        if len(named) == 1:
            return named[0]
        rest = named or rest
    raise UnsupportedError(
        f"{file}: outputs {', '.join(rest)} all have one number per class",
        hint=f"say which holds the scores: model.output={rest[0]}",
    )


def _origin(name: str, made_by: Mapping[str, onnx.NodeProto]) -> str | None:
    """What a softmax or sigmoid at the end was taken of; None without one."""
    end = onnx_graph.trace(name, made_by, PASSING)
    node = made_by.get(end)
    if node is None or node.op_type not in ("Softmax", "LogSoftmax", "Sigmoid"):
        return None
    return str(node.input[0])


def _kind(model: onnx.ModelProto, name: str, value: npt.NDArray[Any], task: str) -> str:
    """What the numbers of an output are."""
    if _integer(value):
        return CLASS_IDS
    made_by = onnx_graph.producers(model.graph)
    node = made_by.get(onnx_graph.trace(name, made_by, PASSING))
    if node is not None and node.op_type == "LogSoftmax":
        return LOGITS
    if node is not None and node.op_type in ("Softmax", "Sigmoid", "HardSigmoid"):
        return PROBABILITIES
    if task == DENSE or value.size == len(value):
        return LOGITS
    rows = value.reshape(len(value), -1).astype(np.float64)
    sums = rows.sum(axis=1)
    if rows.min() >= 0 and rows.max() <= 1 and np.abs(sums - 1).max() < 1e-3:
        return PROBABILITIES  # a softmax written out in other operators
    return LOGITS


class _Edit:
    """Appends operators to one output of a graph.

    Args:
        model: Changed in place.
        output: The output's name; what is appended takes it over.
    """

    def __init__(self, model: onnx.ModelProto, output: str) -> None:
        self.model = model
        self.graph = model.graph
        self.output = output
        self.name = output
        self.last = output
        self.version = next(
            o.version for o in model.opset_import if o.domain in onnx_graph.STANDARD
        )
        self.declared = next(v for v in self.graph.output if v.name == output)
        self.kind = self.declared.type.tensor_type.elem_type

    def _constant(self, value: npt.NDArray[Any], label: str) -> str:
        import onnx

        name = onnx_graph.free_name(self.graph, f"{self.output}_{label}")
        self.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        import onnx

        name = onnx_graph.free_name(self.graph, f"{self.output}_{kind.lower()}")
        node = onnx.helper.make_node(kind, list(inputs), [name], name=f"scores_{name}",
                                     **attributes)  # fmt: skip
        self.graph.node.append(node)
        self.last = name
        return name

    def rows(self, value: npt.NDArray[Any], again: bool = False) -> None:
        """Drop sizes of one: (n, c, 1, 1) becomes (n, c); with ``again`` (c,) becomes (1, c)."""
        if value.ndim != 2 or again:
            columns = int(np.prod(value.shape[1:], dtype=np.int64))
            shape = self._constant(np.array([-1, columns], np.int64), "rows")
            self._add("Reshape", self.last, shape)

    def gather(self, indices: npt.NDArray[np.int64]) -> None:
        """Keep some of the columns."""
        self._add("Gather", self.last, self._constant(indices, "classes"), axis=1)

    def two_columns(self, value: npt.NDArray[Any], kind: str) -> None:
        """One number of the second class becomes (1 - p, p), or (0, logit)."""
        self.rows(value if value.ndim != 1 else value[:, None, None])
        one = self.last
        if kind == PROBABILITIES:
            other = self._add("Sub", self._constant(np.ones((1, 1), value.dtype), "one"), one)
        else:
            other = self._add("Mul", one, self._constant(np.zeros((1, 1), value.dtype), "zero"))
        self._add("Concat", other, one, axis=1)

    def one_hot(self, value: npt.NDArray[Any], count: int) -> None:
        """Class numbers become columns, 1 where the number is the column's."""
        import onnx

        self.rows(value if value.ndim != 1 else value[:, None, None])
        if self.kind != onnx.TensorProto.INT64:
            self._add("Cast", self.last, to=onnx.TensorProto.INT64)
        self._add("Equal", self.last, self._constant(np.arange(count)[None], "numbers"))
        self._add("Cast", self.last, to=onnx.TensorProto.FLOAT)
        self.kind = onnx.TensorProto.FLOAT

    def dense(self, value: npt.NDArray[Any]) -> None:
        """Class numbers per pixel (n, 1, H, W) become (n, H, W)."""
        if _integer(value) and value.ndim == 4:
            shape = self._constant(np.array([0, *value.shape[2:]], np.int64), "pixels")
            self._add("Reshape", self.last, shape)

    def finish(self, columns: int | None) -> None:
        """Give the last value the output's name and shape; all other outputs go."""
        import onnx

        if self.last != self.output:
            inner = onnx_graph.free_name(self.graph, f"{self.output}_given")
            onnx_graph.rename(self.graph, {self.output: inner, self.last: self.output})
        shape = self.declared.type.tensor_type.shape
        first: Any = "batch"
        if self.declared.type.tensor_type.HasField("shape") and shape.dim:
            first = shape.dim[0].dim_value or shape.dim[0].dim_param or "batch"
        kept = type(self.declared)()
        kept.CopyFrom(self.declared)
        if columns is not None:
            kept = onnx.helper.make_tensor_value_info(self.output, self.kind, [first, columns])
        kept.name = self.output
        del self.graph.output[:]
        self.graph.output.append(kept)
        onnx_graph.remove_unused(self.graph)
