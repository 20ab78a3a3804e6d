"""Imported last by the fork server: OpenVINO, and then no garbage collection looks at all that.

OpenVINO takes 0.2 s of each session's start to import and starts no thread; ONNX Runtime takes a
fifth of that but starts one, which a fork would not have, so it is imported in the fork.

A collection in a fork would visit each object of torch's, which takes 0.2 s, and write to each, so
that the kernel copies every page that the fork shares with the server.

What is frozen is never freed, and some libraries would complain of that on the user's terminal when
the server ends; so it leaves without a word.
"""

import atexit
import contextlib
import gc
import os

_SERVER = os.getpid()


def _leave() -> None:
    """End the server; its forks inherit this and end in their own way."""
    if os.getpid() == _SERVER:
        os._exit(0)


with contextlib.suppress(Exception):  # a broken one is the session's to tell of
    import openvino  # noqa: F401
atexit.register(_leave)
gc.collect()
gc.freeze()
