"""The child's side of a session: it loads one model and answers requests until its pipe closes.

Each request and each answer is one line of JSON; :class:`pqbench.workers.session.SessionWorker`
asks.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from pqbench.workers.child import describe_error, die_with_parent


def serve_forked(incoming: Connection, outgoing: Connection) -> None:
    """In a fork of the server, which ends it with our parent."""
    requests, answers = os.dup(incoming.fileno()), os.dup(outgoing.fileno())
    incoming.close()
    outgoing.close()
    layout = _another_layout()
    serve(requests, answers)
    del layout


def _another_layout() -> tuple[mmap.mmap, bytearray]:
    """Shift where memory is found from now on, as address randomization does for a fresh process.

    All forks of a server begin with the same layout, and what it does to caches would look like a
    property of the program (Curtsinger and Berger, "Stabilizer", ASPLOS 2013). The pages are never
    touched, so they cost no memory.
    """
    draw = int.from_bytes(os.urandom(4), "little")
    pages, heap = 1 + draw % 65536, 16 * (1 + (draw >> 16) % 4096)
    return mmap.mmap(-1, pages * mmap.PAGESIZE), bytearray(heap)


def serve(
    requests: int, answers: int, bare_mb: float | None = None, import_s: float | None = None
) -> None:
    """Answer requests until the pipe closes.

    Args:
        requests: Descriptor to read from.
        answers: Descriptor to write to.
        bare_mb: Resident memory in MiB of an interpreter with numpy and the runtime alone, where
            this process is weighed.
        import_s: Seconds that importing the runtime took, where that is done already.
    """
    from pqbench.measure.denormals import flush_denormals

    flushed = flush_denormals()  # before numpy and the runtimes start threads: they inherit it
    from pqbench.measure.session_host import Host, open_host

    host: Host | None = None
    with os.fdopen(requests, "rb") as incoming, os.fdopen(answers, "wb") as outgoing:
        for line in incoming:
            request = json.loads(line)
            answer: dict[str, Any]
            try:
                if request["call"] == "open":
                    host = open_host(
                        **request["arguments"], flushed=flushed, bare_mb=bare_mb, import_s=import_s
                    )
                    value = host.cold()
                else:
                    value = getattr(host, request["call"])(**request["arguments"])
                answer = {"value": value}
            except Exception as error:  # the boundary of the process: reported, never hidden
                traceback.print_exc()
                answer = {"error": describe_error(error)}
            outgoing.write(json.dumps(answer).encode() + b"\n")
            outgoing.flush()
        if host is not None:
            host.close()


def main(
    requests: int,
    answers: int,
    parent: int,
    bare_mb: float | None = None,
    import_s: float | None = None,
) -> None:
    """Run the child; see :func:`serve`."""
    die_with_parent(parent)
    for descriptor in (requests, answers):
        os.set_inheritable(descriptor, False)
    serve(requests, answers, bare_mb, import_s)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
