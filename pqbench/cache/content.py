"""The content of every file that a configuration names: part of the identity of what comes of it.

A setting is a file's name if such a file exists, whatever the setting is called: weights, a model,
a tokenizer, a table of labels, an option of a backend or a step, a user's own key. What a file
refers to counts with it: the external data of ONNX, the ``.bin`` beside OpenVINO's ``.xml``, the
shards of an index. A data set's folder is named by its listing instead (``DataIndex``). What a
setting says is written (``cache_dir``, ``output``, ``log``) is no input.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pqbench.core.errors import DataError
from pqbench.core.files import content_sha256

if TYPE_CHECKING:
    import onnx

_NOT_INPUTS = ("tracking", "_target_")
_WRITTEN = {"cache", "dump", "log", "logs", "out", "output", "outputs", "save", "temp", "tmp"}
# The folders of a data set are listed by itself; those of a runtime are its caches.
_FILES_ONLY = ("dataset", "backend")
_LONGEST = 4096
_FOLDER_FILES = 2000
_FOLDER_BYTES = 2**30
_ONNX_SUFFIXES = (".onnx", ".ort", ".onnx_data")
_IR_VERSIONS = range(1, 64)


def named_files(value: Any) -> dict[str, str]:
    """SHA-256 of the content of every file that a string in ``value`` names.

    Args:
        value: Any nesting of mappings and lists; a relative path starts at the current folder.

    Returns:
        By the path as it is given; a file that another one refers to by its own path. A folder
        (of a tokenizer, say) counts as one: the hash of all its files, above 2,000 files or 1 GiB
        of their names, sizes and times.

    Raises:
        DataError: A file that is named cannot be read.
    """
    found: dict[str, str] = {}
    for text, folders_too in _strings(value, folders_too=True):
        path = _existing(text)
        if path is None or text in found:
            continue
        try:
            if path.is_dir():
                if folders_too and not _holds_results(path):
                    found[text] = _folder_hash(path)
                continue
            if not path.is_file():
                continue  # a device or a pipe
            found[text] = content_sha256(path)
            for other in companions(path):
                if other.is_file():
                    found[str(other)] = content_sha256(other)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return dict(sorted(found.items()))


def assert_unchanged(before: Mapping[str, str], after: Mapping[str, str], when: str) -> None:
    """Refuse a result that may have been made from two versions of one file.

    Args:
        before: What was there when the work began.
        after: What is there now.
        when: In what, for the message: ``stage fit``.

    Raises:
        DataError: A file was changed or removed meanwhile.
    """
    names = sorted(name for name, sha256 in before.items() if after.get(name) != sha256)
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise DataError(
            f"{names[0]}{more} changed while {when} used it",
            hint="run the same command again once nothing writes to it",
        )


def companions(path: Path) -> list[Path]:
    """Files that belong to ``path`` and hold a part of what it means, whether they exist or not."""
    name = path.name.lower()
    if name.endswith(_ONNX_SUFFIXES) or _looks_like_onnx(path):
        return [path.parent / location for location in external_data(path)]
    if name.endswith(".xml"):
        return [path.with_suffix(".bin")]
    if name.endswith(".index.json"):
        return [path.parent / shard for shard in _shards(path)]
    return []


def external_data(path: Path) -> list[str]:
    """Where an ONNX file keeps tensors outside of itself, relative to it; the data is not read."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's DecodeError and others: who uses the file says what is wrong
        return []
    graphs = [model.graph, *(t.algorithm for t in model.training_info)]
    graphs += [t.initialization for t in model.training_info]
    nodes = [node for function in model.functions for node in function.node]
    found = {
        entry.value
        for tensor in _tensors(graphs, nodes)
        if tensor.data_location == tensor.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(found)


def _tensors(
    graphs: Iterable[onnx.GraphProto], nodes: Iterable[onnx.NodeProto]
) -> Iterator[onnx.TensorProto]:
    """Every tensor of graphs and nodes, those in the bodies of If and Loop among them."""
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _tensors([], graph.node)
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            inner = [*attribute.graphs]
            if attribute.HasField("g"):
                inner.append(attribute.g)
            yield from _tensors(inner, [])


def _looks_like_onnx(path: Path) -> bool:
    """Whether a file of any name begins as ONNX files do: with the version of its format."""
    with path.open("rb") as file:
        start = file.read(3)
    return (
        len(start) == 3 and start[0] == 8 and start[1] in _IR_VERSIONS and start[2] in b"\x12\x3a"
    )


def _shards(path: Path) -> list[str]:
    """The files that an index of weights (``model.safetensors.index.json``) names."""
    try:
        weights = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(shard) for shard in weights.values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _strings(value: Any, folders_too: bool) -> Iterator[tuple[str, bool]]:
    """Every string that may name an input, and whether a folder of that name counts."""
    if isinstance(value, str):
        yield value, folders_too
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key in _NOT_INPUTS or _WRITTEN & set(str(key).lower().split("_")):
                continue
            if key == "name" and isinstance(item, str) and not {"/", "."} & set(item):
                continue  # a label that only people read
            if isinstance(key, str):
                yield key, False
            yield from _strings(item, folders_too and key not in _FILES_ONLY)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item, folders_too)


def _existing(text: str) -> Path | None:
    """The file or folder that a string names: a path, one under ``~``, or a ``file:`` URI."""
    if not text or len(text) > _LONGEST or "\0" in text or "\n" in text:
        return None
    try:
        if text.startswith("file:"):
            text = unquote(urlsplit(text).path)
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long a name, say, or no home
        return None


def _holds_results(folder: Path) -> bool:
    """Whether the current folder is in it: then results would change what they come from."""
    return Path.cwd().is_relative_to(folder.resolve())


def _folder_hash(folder: Path) -> str:
    """Hash of all files below a folder, hidden ones and compiled code left out."""
    files = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__pycache__")
        files += [Path(where, n) for n in sorted(names) if not n.startswith(".")]
    stats = [path.stat() for path in files if path.exists()]
    big = len(files) > _FOLDER_FILES or sum(s.st_size for s in stats) > _FOLDER_BYTES
    digest = hashlib.sha256()
    for path in files:
        if not path.is_file():
            continue
        stat = path.stat()
        what = f"{stat.st_size}:{stat.st_mtime_ns}" if big else content_sha256(path)
        digest.update(os.fsencode(path.relative_to(folder)) + f":{what}\n".encode())
    return digest.hexdigest()
