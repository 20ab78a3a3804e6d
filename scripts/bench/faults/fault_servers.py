"""Tracking stores that are down, hang, fail or are locked, for ``faults.py``."""

from __future__ import annotations

import contextlib
import http.server
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

from fault_bench import Bench
from fault_injection import plain


@contextlib.contextmanager
def server(mode: str) -> Iterator[str]:
    """A tracking server that is down, hangs, answers 500, or dies after saying it is well."""
    if mode == "down":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if mode == "hangs":
                time.sleep(30)
            elif mode == "500":
                self.send_error(500)
            elif self.path == "/health":
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif mode == "dies half way":
                self.connection.close()
            else:
                time.sleep(30)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    stub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.daemon_threads = True
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{stub.server_port}"
    finally:
        stub.shutdown()
        stub.server_close()


def with_server(mode: str) -> Callable[[Bench], tuple[int, str]]:
    def hurt(bench: Bench) -> tuple[int, str]:
        with server(mode) as uri:
            return plain("tracking=server", f"tracking.uri={uri}")(bench)

    return hurt


def sqlite_locked(bench: Bench) -> tuple[int, str]:
    with contextlib.closing(sqlite3.connect(bench.outputs / "mlflow.db")) as database:
        database.execute("begin exclusive")
        return plain()(bench)
