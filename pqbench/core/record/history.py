"""The history of the format: what changed, and how a record of an earlier version is read.

A field that is only added needs no new version: it has a default, which earlier records get. The
version rises where the meaning or the layout of a field changes, and ``_STEPS`` then says how the
values of the version before become those of the next.

========  ===========================================================================
Version   What changed
========  ===========================================================================
1         The first.
2         Values are checked when they are read and written: types, unknown fields, NaN. The digest
          covers what differs from its default, so that an added field does not break it.
========  ===========================================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from pqbench.core.errors import DataError

SCHEMA_VERSION = 2
FORGED = "does not fit"  # a digest that no record has


def migrate(value: dict[str, Any]) -> dict[str, Any]:
    """A record's plain values in the layout of today.

    Raises:
        DataError: Its version is unknown, or newer than this.
    """
    version = value.get("schema_version")
    if version == SCHEMA_VERSION:
        return value
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DataError(
            f"not a record: its schema_version is {version!r}, a number from 1 to {SCHEMA_VERSION} "
            "is expected"
        )
    if version > SCHEMA_VERSION:
        raise DataError(
            f"a newer pqbench wrote it (schema version {version}, this one reads up to "
            f"{SCHEMA_VERSION})",
            hint="update pqbench",
        )
    for step in _STEPS[version - 1 :]:
        value = step(value)
    return value


def _to_2(value: dict[str, Any]) -> dict[str, Any]:
    """Version 1 sealed all fields; what it sealed is checked here, and sealed anew by the reader.

    The digest becomes null where it fits (the reader makes today's), and stays one that fits
    nothing where a field was changed by hand.
    """
    old = value.get("digest")
    fields = {k: v for k, v in value.items() if k != "digest"}
    text = json.dumps(fields, sort_keys=True)
    fits = old == hashlib.sha256(text.encode()).hexdigest()
    return {**fields, "schema_version": 2, "digest": RESEAL if fits else old and FORGED}


RESEAL = "reseal"  # the digest of a migrated record that was whole
_STEPS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_to_2,)
