"""Which shared libraries a library needs, and which of them this machine lacks."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


def needed(path: Path) -> list[str]:
    """Names under ``DT_NEEDED`` of a 64-bit little-endian ELF file, without loading it.

    Loading a provider of ONNX Runtime to see whether it can be loaded would be no harmless
    question: it initializes itself without the runtime around it.

    Args:
        path: The library. A file of another format (Windows, macOS) gives an empty list.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != b"\x7fELF\x02\x01":
            return []
        (table,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        segments = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
        dynamic = next((s for s in segments if s[0] == _PT_DYNAMIC), None)
        if dynamic is None:
            return []
        entries = list(_entries(data, dynamic[2]))
        strings = next(value for tag, value in entries if tag == _DT_STRTAB)
        home = next(s for s in segments if s[0] == _PT_LOAD and s[3] <= strings < s[3] + s[5])
        base = strings - home[3] + home[2]
        names = []
        for tag, value in entries:
            if tag == _DT_NEEDED:
                names.append(data[base + value : data.find(b"\0", base + value)].decode())
        return names


def _entries(data: mmap.mmap, offset: int) -> Iterator[tuple[int, int]]:
    while True:
        tag, value = struct.unpack_from("<qQ", data, offset)
        if tag == _DT_NULL:
            return
        yield tag, value
        offset += 16


def missing(path: Path) -> list[str]:
    """Of the libraries that ``path`` needs, those that the system's loader does not find."""
    lacking = []
    for name in needed(path):
        try:
            ctypes.CDLL(name)
        except OSError:
            lacking.append(name)
    return lacking
