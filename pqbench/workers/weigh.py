"""A session process that is there to be weighed: it knows what in it is pqbench's own.

A deployment has an interpreter, numpy, the runtime and the model; not Hydra, not this package. So
the resident memory is read before anything of ours is imported, and what our imports add until the
runtime is imported is taken off.
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

    import numpy  # noqa: F401  # only for its weight

    bare = resident_mb()
    from pqbench.workers.session import main

    requests, answers, parent = (int(argument) for argument in sys.argv[1:4])
    main(requests, answers, parent, bare)
