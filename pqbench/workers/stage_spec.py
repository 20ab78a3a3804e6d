"""What a stage is, and the key under which its result is found."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pqbench.cache.content import named_files
from pqbench.cache.keys import code_hash, library_versions
from pqbench.cache.users_code import users_code


@dataclass(frozen=True)
class StageSpec:
    """What to run.

    Attributes:
        name: Name for logs and records.
        function: ``package.module:function``.
        arguments: JSON-ready keyword arguments.
        key: What names the arguments' content where that differs from the arguments themselves
            (a path stands for the content found there); None takes the arguments.
        timeout_s: Time limit in s.
        threads: Threads the process may use.
        memory_mb: Limit of the process's own data in MiB; None: no limit. Linux only.
        resumable: The function takes ``resume``, the path of a folder for half-done work, which
            decides nothing about the result; it is left out where there is no cache.
        made: Names of the arguments that are folders made by earlier stages.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]
    key: Mapping[str, Any] | None = None
    timeout_s: float = 1800.0
    threads: int = 1
    memory_mb: float | None = None
    resumable: bool = False
    made: tuple[str, ...] = ()

    def given(self) -> dict[str, Any]:
        """The arguments but those that earlier stages made, or an earlier attempt."""
        return {k: v for k, v in self.arguments.items() if k not in (*self.made, "resume")}

    def sources(self) -> dict[str, str]:
        """SHA-256 of every file and of every module of the user's that the arguments name."""
        code = {f"code:{name}": sha256 for name, sha256 in users_code(self.given()).items()}
        return {**named_files(self.given()), **code}


def cache_key(spec: StageSpec, sources: Mapping[str, str] | None = None) -> str:
    """The key under which the stage's result is found, 32 hex digits.

    Args:
        spec: The stage.
        sources: ``spec.sources()`` where it is known already.
    """
    value = {
        "function": spec.function,
        "arguments": spec.key if spec.key is not None else spec.arguments,
        "code": code_hash(),
        "sources": dict(spec.sources() if sources is None else sources),
        "libraries": library_versions(),
        "python": sys.version_info[:2],
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
