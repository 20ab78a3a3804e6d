"""Where the pairings of a sweep with its reference lie on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pqbench.core.errors import DataError
from pqbench.core.record import Pairing, Record

FOLDER = "reference"  # in the sweep's folder; a folder for each candidate's fingerprint below it
FILE = "pairing.json"


def load_pairing(folder: Path) -> Pairing | None:
    """The pairing in a folder; None if there is none, or a damaged one."""
    try:
        return Pairing.from_text((folder / FILE).read_bytes())
    except (OSError, DataError):
        return None


def load_pairings(folder: Path, records: Sequence[Record]) -> list[Pairing]:
    """The pairings below a folder that belong to these records as they are now."""
    identity = {r.fingerprint: r.identity for r in records}
    paths = sorted(folder.rglob(f"{FOLDER}/*/{FILE}"))
    found = [load_pairing(path.parent) for path in paths]
    return [
        p
        for p in found
        if p is not None and p.identities == [identity.get(p.candidate), identity.get(p.reference)]
    ]
