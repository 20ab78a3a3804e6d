"""Which of a file's inputs takes which of the prepared arrays, and in what form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pqbench.core.artifact import TensorSpec
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import Form, PreparedSplit
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

IMAGE = "input"
CHANNELS = (1, 3)
PIXELS = ("float32", "float16", "float64", "uint8")
LATENCY_ONLY = "to time it as it is: model.task=none dataset=synthetic, or dataset=npz"
Sizes = tuple[int | None, ...]


@dataclass(frozen=True)
class Declared:
    """One input as the file declares it.

    Attributes:
        name: Its name.
        dtype: NumPy's name of the element type; empty for sequences and optional values.
        sizes: None where a size is free; None altogether where the rank is not declared.
        symbols: What the file calls its free sizes; empty where it gives no name.
    """

    name: str
    dtype: str
    sizes: Sizes | None
    symbols: tuple[str, ...] = ()

    def __str__(self) -> str:
        shape = "of unknown rank" if self.sizes is None else shape_text(self.sizes)
        return f"{self.name} {self.dtype or 'sequence'} {shape}"


def shape_text(sizes: Sequence[int | None]) -> str:
    """``(?, 3, 224, 224)``."""
    return f"({', '.join('?' if size is None else str(size) for size in sizes)})"


def declared(model: onnx.ModelProto) -> list[Declared]:
    """The inputs that must be given at every call."""
    import onnx

    stored = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in stored:
            continue
        if value.type.WhichOneof("value") != "tensor_type":
            found.append(Declared(value.name, "", None))
            continue
        tensor = value.type.tensor_type
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        sizes = None
        if tensor.HasField("shape"):
            sizes = tuple(
                d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
                for d in tensor.shape.dim
            )
        symbols = tuple(d.dim_param for d in tensor.shape.dim)
        found.append(Declared(value.name, dtype, sizes, symbols))
    return found


def choose_image(inputs: Sequence[Declared], wanted: str | None, name: str) -> Declared:
    """The input that takes the images.

    Raises:
        ConfigError: ``model.input`` names none.
        UnsupportedError: The file has several inputs, or the one is no tensor.
    """
    names = [value.name for value in inputs]
    if wanted is not None and wanted not in names:
        raise ConfigError(f"model.input={wanted}: {name} takes {', '.join(names)}")
    chosen = [value for value in inputs if value.name == (wanted or value.name)]
    if len(inputs) != 1:
        image = next(
            (v for v in inputs if v.dtype in PIXELS and len(v.sizes or ()) == 4), inputs[0]
        )
        image = chosen[0] if wanted is not None else image
        others = ", ".join(f"{v.name}:..." for v in inputs if v.name != image.name)
        raise UnsupportedError(
            f"{name} takes {len(inputs)} inputs ({'; '.join(map(str, inputs))}), the prepared data "
            "are images",
            hint=f"say what the others are fed, the same for every image: "
            f"'model.constants={{{others}}}' (a number, or [a, list]); {LATENCY_ONLY}",
        )
    if not chosen[0].dtype:
        raise UnsupportedError(
            f"{name}: input {chosen[0].name} is a sequence or an optional value, not one tensor",
            hint="export the model with a tensor as its input",
        )
    return chosen[0]


def image_form(model: onnx.ModelProto, image: Declared, layout: str | None, name: str) -> Form:
    """How a file wants its images: element type, order of the axes, channels.

    Args:
        model: The file, for its first operators.
        image: The input.
        layout: ``nchw`` or ``nhwc``, or None: told from the sizes, else from a Transpose that the
            file begins with, else ``nchw``.
        name: The file's name, for messages.

    Raises:
        UnsupportedError: It cannot be fed an image.
    """
    sizes = image.sizes
    if image.dtype not in PIXELS or (sizes is not None and len(sizes) != 4):
        raise UnsupportedError(
            f"{name}: input {image} is not fed images",
            hint=f"images are (N, C, H, W) or (N, H, W, C) of {', '.join(PIXELS)}; {LATENCY_ONLY}",
        )
    if layout is None:
        layout = "nhwc" if _channels_last(model, image) else "nchw"
    channels = None
    if sizes is not None:
        channels = sizes[3 if layout == "nhwc" else 1]
        if channels is not None and channels not in CHANNELS:
            raise UnsupportedError(
                f"{name}: input {image} has {channels} channels in layout {layout}, images have "
                "1 or 3",
                hint=f"set model.layout=nchw or nhwc if it is the other one; {LATENCY_ONLY}",
            )
    return Form(image.dtype, layout, channels)


def _channels_last(model: onnx.ModelProto, image: Declared) -> bool:
    sizes = image.sizes
    if sizes is not None and (sizes[1] in CHANNELS) != (sizes[3] in CHANNELS):
        return sizes[3] in CHANNELS
    first = [node for node in model.graph.node if image.name in node.input]
    return bool(first) and all(
        node.op_type == "Transpose" and list(onnx_graph.attribute(node, "perm", [])) == [0, 3, 1, 2]
        for node in first
    )


def forms_of(
    path: Path,
    wanted_input: str | None,
    layout: str | None,
    arrays: Mapping[str, bool],
    constants: Sequence[str] = (),
) -> dict[str, Form]:
    """How prepared arrays must be handed to a file.

    Args:
        path: The ONNX file; its weights are not read.
        wanted_input: ``model.input``.
        layout: ``model.layout``.
        arrays: The prepared arrays' names; True for images.
        constants: Inputs that are fed the same for every sample (``model.constants``).

    Raises:
        UnsupportedError: The file cannot be fed these data.
    """
    from pqbench.models.onnx.load import read_file

    model: onnx.ModelProto = read_file(path, weights=False)
    inputs = declared(model)
    if unknown := [name for name in constants if name not in {value.name for value in inputs}]:
        raise ConfigError(
            f"model.constants.{unknown[0]}: {path.name} takes {', '.join(v.name for v in inputs)}"
        )
    inputs = [value for value in inputs if value.name not in constants]
    if any(arrays.values()):
        image = choose_image(inputs, wanted_input, path.name)
        form = image_form(model, image, layout, path.name)
        return {name: form for name, is_image in arrays.items() if is_image}
    given = {value.name: value for value in inputs}
    return {
        name: Form(given[name].dtype)
        for name in arrays
        if name in given and given[name].dtype.startswith(("int", "uint", "float"))
    }


def fit_split(
    split: PreparedSplit,
    file: str,
    input: str | None,
    layout: str | None,
    constants: Sequence[str] = (),
) -> PreparedSplit:
    """Have a prepared split fed as a user's file takes it; see :func:`forms_of`.

    Raises:
        ConfigError: A grey input without mean and standard deviation of its own.
        UnsupportedError: The file cannot be fed these data.
    """
    path = Path(file)
    images = {name: name in split.normalization for name in split.arrays}
    usual = (Form("float32"), Form("float32", channels=3))
    forms = {
        name: form
        for name, form in forms_of(path, input, layout, images, constants).items()
        if form not in usual and (images[name] or form.dtype != str(split.stored(name).dtype))
    }
    notes = []
    for name, form in forms.items():
        norm = split.normalization.get(name)
        if norm is None:
            continue
        if form.channels == 1 and form.dtype != "uint8" and len({*norm.mean}) > 1:
            raise ConfigError(
                f"{path.name} takes one channel, model.preprocess.mean has {len(norm.mean)}",
                hint="set the two that it was trained with: model.preprocess.mean=[0.5] "
                "model.preprocess.std=[0.5], say",
            )
        as_what = ["grey"] if form.channels == 1 else []
        as_what += ["channels last"] if form.layout == "nhwc" else []
        as_what += [form.dtype] if form.dtype not in (None, "float32") else []
        if form.dtype == "uint8":
            as_what[-1] = "uint8 from 0 to 255, not normalised"
        if as_what:
            notes.append(f"{path.name} is fed images {', '.join(as_what)}")
    return split.with_forms(forms, notes) if forms else split


def match_inputs(
    model: onnx.ModelProto,
    wanted: tuple[TensorSpec, ...],
    name: str,
    chosen: str | None = None,
) -> tuple[tuple[TensorSpec, ...], dict[str, str]]:
    """Find the prepared data's inputs among the model's; a single one is renamed.

    Args:
        model: Changed in place where an input is renamed, or its shape is not declared.
        wanted: What the prepared data give.
        name: The file's name, for messages.
        chosen: ``model.input``.

    Returns:
        The model's inputs in its own order, and the names changed (old to new).

    Raises:
        UnsupportedError: Another number of inputs, other names, types or sizes.
    """
    inputs = declared(model)
    renamed: dict[str, str] = {}
    if len(wanted) == 1 and wanted[0].name == IMAGE:
        image = choose_image(inputs, chosen, name)
        if image.name != IMAGE:
            renamed[image.name] = IMAGE
            give_name(model, image.name, IMAGE)
            inputs = declared(model)
    elif len(wanted) == len(inputs) == 1 and inputs[0].name != wanted[0].name:
        renamed[inputs[0].name] = wanted[0].name
        give_name(model, inputs[0].name, wanted[0].name)
        inputs = declared(model)
    given = {spec.name: spec for spec in wanted}
    if {value.name for value in inputs} - set(given):
        raise UnsupportedError(
            f"{name} takes {', '.join(v.name for v in inputs)}, the prepared data have "
            f"{', '.join(given)}",
            hint=f"export it with these input names, or choose another tokenizer; {LATENCY_ONLY}",
        )
    specs = []
    for value in inputs:
        want = given[value.name]
        sizes = value.sizes if value.sizes is not None else (None,) * len(want.shape)
        fits = len(sizes) == len(want.shape) and all(
            size in (None, have) for size, have in zip(sizes[1:], want.shape[1:], strict=True)
        )
        if value.dtype != want.dtype or not fits:
            raise UnsupportedError(
                f"{name}: input {value.name} is {value.dtype} {shape_text(sizes)}, the prepared "
                f"data are {want.dtype} {shape_text(want.shape)}",
                hint=_sizes_hint(sizes),
            )
        specs.append(TensorSpec(value.name, (sizes[0], *want.shape[1:]), want.dtype))
        if value.sizes is None:
            _declare(model, value.name, [None, *want.shape[1:]])
    return tuple(specs), renamed


def _sizes_hint(sizes: Sequence[int | None]) -> str:
    """What to type so that the prepared data have the file's sizes."""
    if len(sizes) == 2:
        return f"set model.tokenizer.max_length={sizes[1] or '...'}"
    sides = [size for size in sizes[1:] if size not in (None, *CHANNELS)]
    if len(sizes) == 4 and len(set(sides)) == 1:
        return f"set model.preprocess.crop={sides[0]} and model.preprocess.resize to match"
    return f"pqbench's images are square, this input is not; {LATENCY_ONLY}"


def give_name(model: onnx.ModelProto, old: str, new: str) -> None:
    """Rename a value everywhere; another of the new name makes room."""
    graph = model.graph
    if new in onnx_graph.all_names(graph):  # make room for the new name
        onnx_graph.rename(graph, {new: onnx_graph.free_name(graph, f"{new}_inner")})
    onnx_graph.rename(graph, {old: new})


def _declare(model: onnx.ModelProto, name: str, sizes: Sequence[int | None]) -> None:
    """Give an input or output without a declared rank its sizes."""
    for value in (*model.graph.input, *model.graph.output):
        if value.name == name:
            shape = value.type.tensor_type.shape
            shape.SetInParent()
            del shape.dim[:]
            for axis, size in enumerate(sizes):
                dim = shape.dim.add()
                if size is None:
                    dim.dim_param = "batch" if axis == 0 else f"{name}_{axis}"
                else:
                    dim.dim_value = size
