"""``python -m pqbench.cache``: list what is there, verify every file, prune to a size."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pqbench.cache.account import KINDS
from pqbench.cache.seal import unseal
from pqbench.cache.store import GIB, Cache, Entry
from pqbench.core.errors import DataError
from pqbench.core.terminal import exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """List, verify or prune.

    Returns:
        0; 1 if ``verify`` found a damaged entry; 2 if there is no cache.
    """
    parser = argparse.ArgumentParser(prog="python -m pqbench.cache", description=__doc__)
    parser.add_argument("what", choices=("list", "verify", "prune"))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--max-gb", type=float, help="prune: keep at most this many GiB of stages")
    parser.add_argument("--remove", action="store_true", help="verify: remove what is damaged")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = Cache(args.outputs / "cache")
    if not cache.root.is_dir():
        print(f"no cache in {args.outputs}: set --outputs", file=sys.stderr)
        return 2
    if args.what == "prune":
        return _prune(cache, args.max_gb)
    return _verify(cache, args.remove) if args.what == "verify" else _list(cache)


def _list(cache: Cache) -> int:
    entries = cache.entries()
    for entry in reversed(entries):
        print(_line(entry))
    print(_total(entries))
    return 0


def _verify(cache: Cache, remove: bool) -> int:
    damaged = 0
    entries = cache.entries()
    for entry in entries:
        try:
            unseal(entry.folder)
        except (FileNotFoundError, DataError) as error:
            damaged += 1
            print(f"damaged: {error}")
            if remove:
                cache.remove(entry.folder)
    print(f"{len(entries)} entries checked, {damaged} damaged" + (", removed" * bool(remove)))
    return 1 if damaged and not remove else 0


def _prune(cache: Cache, max_gb: float | None) -> int:
    left = cache.clean()
    before = cache.entries()
    removed = cache.evict(max_gb) if max_gb is not None else []
    freed = sum(e.size for e in removed)
    print(
        f"{len(left)} half-made and {len(removed)} of {len(before)} entries removed, "
        f"{freed / GIB:.2f} GiB"
    )
    print(_total(cache.entries()))
    return 0


def _line(entry: Entry) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
    return f"{when}  {entry.size / 2**20:9.1f} MiB  {entry.kind:<7}  {entry.name}  {entry.folder}"


def _total(entries: Sequence[Entry]) -> str:
    return " ".join(
        [
            f"{len(entries)} entries, {sum(e.size for e in entries) / GIB:.2f} GiB",
            *_by_kind(entries),
        ]
    )


def _by_kind(entries: Sequence[Entry]) -> Iterator[str]:
    for kind in KINDS:
        size = sum(e.size for e in entries if e.kind == kind)
        yield f"({kind} {size / GIB:.2f})"


if __name__ == "__main__":
    sys.exit(exit_code(main))
