"""Fetch and unpack an archive so that its folder is there whole or not at all."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

from filelock import FileLock

from pqbench.assets.download import Remote, fetch
from pqbench.core.errors import DataError


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive whose one top folder is ``folder.name``; the folder appears whole or not.

    Tar archives are read with Python's ``data`` filter, which refuses paths and links that lead
    outside; zip archives are refused if a name does.

    Raises:
        DataError: The archive is damaged, unsafe, or holds something else.
    """
    aside = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(aside, ignore_errors=True)  # left by an earlier attempt that was killed
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                for name in file.namelist():
                    if name.startswith(("/", "\\")) or ".." in Path(name).parts:
                        raise OSError(f"'{name}' leads outside the folder")
                file.extractall(aside)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(aside, filter="data")
        (aside / folder.name).rename(folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(
            f"cannot unpack {archive} to {folder}: {error}",
            hint="check the free space on that disk, or delete the archive and run again",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def obtain(remote: Remote, folder: Path, archive: Path, offline: str = "") -> Path:
    """The data set's folder; its archive is downloaded, checked and unpacked if it is missing.

    Args:
        remote: Where the archive is published, with its checksum.
        folder: Where the data set belongs; the archive's one top folder has the same name.
        archive: Where the archive is kept while it is needed; taken from there if it lies there.
        offline: What else works without a network, for the message.

    Raises:
        DataError: The archive cannot be had, or is damaged.
    """
    if folder.is_dir():
        return folder
    hint = (
        f"the data set is missing: put the archive at {archive.resolve()} or unpack it to "
        f"{folder.resolve()}, or set dataset.root{offline and f'; {offline}'}"
    )
    fetch(remote, archive, DataError, hint)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            unpack(archive, folder)
    archive.unlink(missing_ok=True)
    return folder
