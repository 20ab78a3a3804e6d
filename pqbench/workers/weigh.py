"""A session process that is there to be weighed: it knows what in it is pqbench's own.

A deployment has an interpreter, numpy, the runtime and the model; not Hydra, not this package. So
numpy and the runtime are imported first, which also times that import, and what our own imports add
after that is taken off.
"""


def resident_mb() -> float | None:
    """Resident memory of this process in MiB; None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123  # pathlib weighs
            line = next(line for line in file if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    import sys
    import time

    requests, answers, parent, *modules = sys.argv[1:]
    import numpy  # noqa: F401  # only for its weight

    began = time.perf_counter()
    for module in modules:
        try:
            __import__(module)
        except (ImportError, OSError):
            break  # the backend says what is missing
    seconds = time.perf_counter() - began
    bare = resident_mb()
    from pqbench.workers.session_child import main

    main(int(requests), int(answers), int(parent), bare, seconds)
