"""Stratified splits that stay the same for ever: ordered by a hash, not by a random generator."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence


def stratified_split(
    keys: Sequence[str], strata: Sequence[Hashable], held_out: float, seed: int
) -> tuple[list[int], list[int]]:
    """Split indices into train and held-out parts, the same share of each stratum in both.

    Inside a stratum the keys are ordered by SHA-256 of ``seed:key`` and the first
    ``round(held_out * n)`` are held out, so the split depends on nothing but names and seed: not on
    the order of files, the platform or a library's generator.

    Args:
        keys: One unique name per sample, for instance the file's path below the data set's root.
        strata: One hashable per sample, for instance its label.
        held_out: Share of each stratum that is held out, in [0, 1].
        seed: Any integer.

    Returns:
        ``(train, held_out)``: two sorted lists of indices, disjoint, together all of ``keys``.

    Raises:
        ValueError: ``keys`` and ``strata`` differ in length, a key occurs twice, or ``held_out``
            lies outside [0, 1].
    """
    if len(keys) != len(strata):
        raise ValueError(f"{len(keys)} keys but {len(strata)} strata")
    if len(set(keys)) != len(keys):
        raise ValueError("keys must be unique")
    if not 0.0 <= held_out <= 1.0:
        raise ValueError(f"held_out must lie in [0, 1], got {held_out}")
    groups: dict[Hashable, list[int]] = {}
    for index, stratum in enumerate(strata):
        groups.setdefault(stratum, []).append(index)
    train: list[int] = []
    held: list[int] = []
    for members in groups.values():
        members.sort(
            key=lambda i: hashlib.sha256(
                f"{seed}:{keys[i]}".encode(errors="surrogateescape")
            ).digest()
        )
        cut = round(held_out * len(members))
        held += members[:cut]
        train += members[cut:]
    return sorted(train), sorted(held)
