"""Secrets are masked by where they stand: in an address, before its host and in its query.

What is written (records, Hydra's own files, the journal, MLflow's tags and artifacts, messages)
goes through here. A value that is read from the environment stays the reference that it was,
``${oc.env:NAME}``: see :func:`pqbench.app.shown.shown_config`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{2,3})[^\s/?#'\"<>]*@")
# A password may hold a slash or a question mark that should have been written as %2F or %3F.
_SLOPPY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"<>@:/]*:[^\s'\"<>@]*@")
_QUERY = re.compile(
    r"([?&;](?:[\w.-]*(?:token|passw|pwd|secret|key|sig|auth|cred|session)[\w.-]*|sas|user|uid|code)"
    r"=)[^\s&;#'\"<>]*",
    re.IGNORECASE,
)


def mask_text(text: str) -> str:
    """A text without what stands before an address's host, and without tokens in its query.

    Args:
        text: Any text; addresses may stand anywhere in it.

    Returns:
        ``https://***@host/path?token=***`` for ``https://me:word@host/path?token=abc``.
    """
    if "://" not in text:
        return text
    text = _USER.sub(rf"\g<1>{MASK}@", _SLOPPY.sub(rf"\g<1>{MASK}@", text))
    return _QUERY.sub(rf"\g<1>{MASK}", text)


def mask(value: Any) -> Any:
    """The same of every text in plain values; keys stay."""
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {key: mask(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(item) for item in value]
    return value
