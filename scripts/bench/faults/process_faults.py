"""The rows of the fault matrix in which a process dies, hangs or runs out of something."""

from __future__ import annotations

import signal

from fault import Fault
from fault_bench import FORK_SERVER, SESSION
from fault_injection import at_file, at_log, plain

STAGES = ("prepare_val", "prepare_model", "to_onnx", "prepare_train", "round", "count_work")


def of_processes() -> list[Fault]:
    """Processes that die, stop answering or run out of something."""
    kill, segv, abort, halt = signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGSTOP
    stage, worker = "pqbench.workers.stage", SESSION
    retry, limit = ("retry=failed",), "protocol.stage_timeout_s=12"
    long = ("protocol.min_pairs=20", "protocol.block_s=0.1")  # a session is there to be hit
    rows = [
        Fault(f"SIGKILL of the parent in {s}", at_log(s, stage, kill, "parent"), (s,), (-kill,))
        for s in STAGES
    ]
    # Where the first experiment is hit in what the second needs as well, that one makes it: exit 0.
    rows += [
        Fault(
            "SIGKILL of a stage (to_onnx)",
            at_log("to_onnx", stage, kill, "it"),
            ("to_onnx",),
            status="oom",
            stage="to_onnx",
            says=r"killed \(SIGKILL\)",
            again=retry,
        ),
        Fault(
            "SIGSEGV of a stage (round)",
            at_log("round", stage, segv, "it"),
            ("round",),
            (3,),
            "crashed",
            "round",
            "SIGSEGV",
            retry,
        ),
        Fault(
            "SIGABRT of a stage (prepare_model)",
            at_log("prepare_model", stage, abort, "it"),
            ("prepare_model",),
            status="crashed",
            stage="prepare_model",
            says="SIGABRT",
            again=retry,
        ),
        Fault(
            "SIGKILL of the fork server",
            at_log("round", FORK_SERVER, kill, "it"),
            ("round",),
            (3,),
            "crashed",
            "round",
            again=retry,
        ),
        Fault(
            "SIGKILL of the parent in measuring",
            at_log("candidate", worker, kill, "parent"),
            codes=(-kill,),
        ),
        Fault(
            "SIGKILL of a session while measuring",
            at_log("candidate", worker, kill, "it", *long),
            status="oom",
            stage="measure",
            says=r"killed \(SIGKILL\)",
            again=(*long, *retry),
        ),
        Fault(
            "SIGSEGV of both sessions while measuring",
            at_log("baseline", worker, segv, "it", *long),
            (),
            (3,),
            "crashed",
            "measure",
            "SIGSEGV",
            (*long, *retry),
        ),
        Fault(
            "a stage hangs (SIGSTOP)",
            at_log("count_work", stage, halt, "it", limit),
            ("count_work",),
            status="timeout",
            stage="count_work",
            says="longer than 12 s",
            again=(limit, *retry),
        ),
        Fault(
            "a session hangs (SIGSTOP)",
            at_log("candidate", worker, halt, "it", limit),
            status="timeout",
            stage="measure",
            says="12 s",
            again=(limit, *retry),
        ),
        Fault(
            "out of memory in a stage",
            plain("limits.memory_mb=1500", FAULT="memory"),
            ("round",),
            (3,),
            "oom",
            "round",
            "limits.memory_mb",
            retry,
        ),
        Fault(  # OpenBLAS does not survive a failed allocation
            "a library crashes for want of memory",
            plain("limits.memory_mb=250"),
            ("prepare_model",),
            (3,),
            "crashed",
            "prepare_model",
            "limits.memory_mb",
            retry,
        ),
        Fault(
            "out of memory in a session",
            plain("limits.memory_mb=30"),
            (),
            (3,),
            "oom",
            "measure",
            "limits.memory_mb",
            retry,
        ),
        Fault(
            "an experiment over its time",
            plain("limits.cell_s=1"),
            ("to_onnx",),
            (3,),
            "timeout",
            "to_onnx",
            "limits.cell_s",
            retry,
        ),
        Fault(
            "a session cannot start",
            plain(FAULT="worker"),
            (),
            (3,),
            "crashed",
            "measure",
            "exit code 7",
            retry,
        ),
        Fault("the clock jumps back a day", plain(FAULT="clock"), ("count_work",)),
        Fault(
            "SIGKILL of the parent in the push",
            at_file("sweeps/*/*/tracking.json", kill),
            codes=(-kill,),
        ),
        Fault("SIGKILL between two experiments", at_file("sweeps/*/1_*", kill), codes=(-kill,)),
        Fault(
            "Ctrl-C once",
            at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGINT),
            codes=(130,),
            says="when this stage is done(.|\n)*the same command goes on",
        ),
        Fault(
            "Ctrl-C twice",
            at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGINT, 2),
            codes=(130,),
            says="the same command goes on",
        ),
    ]
    return rows
