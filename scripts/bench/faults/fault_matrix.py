"""All rows of the fault matrix."""

from __future__ import annotations

import signal

import fault_injection as fi
from fault import EXPECTED, Fault
from fault_injection import after, at_file, plain
from fault_servers import sqlite_locked, with_server
from process_faults import of_processes


def _of_files() -> list[Fault]:
    """Disks and files that fail, and others who use them."""
    full = "[Nn]o space left on device|disk full"
    return [
        Fault("disk full: 60 KiB left", fi.small_disk(60, False), ("round",), (4,), says=full),
        Fault("disk full: 250 KiB left", fi.small_disk(250, False), ("round",), (4,), says=full),
        Fault("read-only output", fi.small_disk(0, True), codes=(4,), says="[Rr]ead-only"),
        Fault("corrupted cache entry", after(fi.flip), says="damaged cache entry removed"),
        Fault(
            "truncated record in the cache",
            after(fi.cut_record_in_cache),
            says="damaged cache entry removed",
        ),
        Fault(
            "truncated record in the sweep",
            after(fi.cut_record_in_sweep),
            says="record.json was changed since pqbench wrote it: it is kept as",
        ),
        Fault("truncated stage result", after(fi.cut_stage), says="damaged cache entry removed"),
        Fault("half-made entries and a stale lock", after(fi.leftovers)),
        Fault(
            "records and cache of records lost",
            after(fi.lose_cache),
            says="in the tracking store",
        ),
        Fault(
            "two sweeps in one folder",
            fi.two_in_one_folder,
            codes=(2,),
            says="another process runs a sweep",
        ),
        Fault("two sweeps at once, one cache", fi.two_at_once, ("round", "to_onnx")),
        Fault("sqlite locked", sqlite_locked, says="results stay on disk", sync=True),
    ]


def _of_strangers() -> list[Fault]:
    """What a terminal, an environment, a signal or a neighbour does."""
    goes_on = "the same command goes on"
    return [
        Fault("disk full in the report", plain(FAULT="report"), codes=(4,), says="No space left"),
        Fault("an ASCII terminal", plain(PYTHONIOENCODING="ascii"), says="baseline"),
        Fault(
            "an address that is none",
            plain("tracking.uri=mlruns"),
            codes=(2,),
            says="tracking.uri=mlruns is a folder",
        ),
        Fault(
            "one bad byte in every record",
            after(fi.one_bad_byte("record.json")),
            says="record.json was changed since pqbench wrote it: it is kept as",
        ),
        Fault(
            "one bad byte in every journal",
            after(fi.one_bad_byte("tracking.json")),
            says="tracking.json is damaged; kept as",
        ),
        # The second command's protocol has another name, so its experiments are others.
        Fault(
            "a password in the address",
            fi.secret,
            says="pqbench.sync",
            sync=True,
            experiments=2 * EXPECTED,
        ),
        Fault("telemetry", fi.silent),
        Fault("a temporary folder of 90 characters", fi.long_temporary_folder, ("round",)),
        Fault(
            "a link where the locks go",
            fi.lock_folder_is_a_link,
            (),
            (3,),
            "failed",
            "measure",
            "is a link or a file",
            ("retry=failed",),
        ),
        Fault("a sweep that cannot be locked", fi.a_sweep_that_cannot_be_locked),
        Fault("a step that prints 60 MB", fi.chatter, ("round",)),
        Fault(
            "SIGTERM",
            at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGTERM),
            codes=(130,),
            says=goes_on,
        ),
        Fault(
            "SIGHUP",
            at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGHUP),
            codes=(130,),
            says=goes_on,
        ),
        Fault(
            "SIGKILL of the parent while a step has children of its own",
            at_file("strays", signal.SIGKILL, FAULT="strays"),
            ("round",),
            (-signal.SIGKILL,),
        ),
        Fault(
            "a limited step that leaves children",
            plain("limits.memory_mb=4000", FAULT="strays"),
            ("round",),
        ),
    ]


def faults() -> list[Fault]:
    """The whole matrix."""
    servers = ("down", "hangs", "500", "dies half way", "is well and then hangs")
    return [
        *of_processes(),
        *_of_files(),
        *_of_strangers(),
        *(
            Fault(
                f"tracking server {m}",
                with_server(m),
                says="python -m pqbench.sync",
                sync=True,
            )
            for m in servers
        ),
    ]
