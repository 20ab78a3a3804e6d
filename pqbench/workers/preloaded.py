"""Imported last by the fork server: no garbage collection looks at what it has imported.

A collection in a fork would visit each object of torch's, which takes 0.2 s, and write to each, so
that the kernel copies every page that the fork shares with the server.

What is frozen is never freed, and some libraries would complain of that on the user's terminal when
the server ends; so it leaves without a word.
"""

import atexit
import gc
import os

_SERVER = os.getpid()


def _leave() -> None:
    """End the server; its forks inherit this and end in their own way."""
    if os.getpid() == _SERVER:
        os._exit(0)


atexit.register(_leave)
gc.collect()
gc.freeze()
