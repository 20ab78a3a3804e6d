"""The ways to hurt the sweep of ``fault_bench.py``; ``faults.py`` runs them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from fault_bench import Bench, children, ended, forget, start, wait_for, works

SECRET = "s3cr3t-of-the-bench"
NO_RIGHT = 996
# What a child's interpreter does first, for faults that need its help.
SITE = """
import os, sys, time
args = " ".join(sys.orig_argv)
if os.environ.get("FAULT") == "worker" and "-m pqbench.workers.weigh" in args:
    os._exit(7)
if os.environ.get("FAULT") == "clock":
    real, began = time.time, time.time()
    time.time = lambda: real() - (86400 if real() - began > 1 else 0)
if os.environ.get("FAULT") == "report":
    import errno, pathlib
    written = pathlib.Path.write_text
    def full(path, *arguments, **options):
        if "table.csv" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return written(path, *arguments, **options)
    pathlib.Path.write_text = full
"""


def plain(*arguments: str, **extra: str) -> Callable[[Bench], tuple[int, str]]:
    return lambda b: ended(start(b, *arguments, **extra))


def at_log(
    log: str, module: str, number: int, whom: str, *arguments: str
) -> Callable[[Bench], tuple[int, str]]:
    """Signal the child (or the parent) while the stage with this log runs."""

    def hurt(bench: Bench) -> tuple[int, str]:
        process = start(bench, *arguments)

        def there() -> bool:
            return bool(bench.logs(log)) and bool(children(process.pid, module))

        if not wait_for(process, there):
            return 998, f"never saw {log}: " + ended(process)[1]
        seen = children(process.pid, module)
        wait_for(process, lambda: any(works(child) for child in seen))
        if whom == "parent":
            process.send_signal(number)
        else:
            for child in children(process.pid, module):
                child.send_signal(number)
        return ended(process)

    return hurt


def at_file(
    pattern: str, number: int, times: int = 1, **extra: str
) -> Callable[[Bench], tuple[int, str]]:
    """Signal the parent once a file is there."""

    def hurt(bench: Bench) -> tuple[int, str]:
        process = start(bench, **extra)
        if not wait_for(process, lambda: any(bench.outputs.glob(pattern))):
            return 998, f"never saw {pattern}: " + ended(process)[1]
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.5)
        return ended(process)

    return hurt


def after(damage: Callable[[Bench], None], *arguments: str) -> Callable[[Bench], tuple[int, str]]:
    """Damage what a good sweep left, then run."""

    def hurt(bench: Bench) -> tuple[int, str]:
        code, output = plain()(bench)
        if code:
            return 997, output
        damage(bench)
        return plain(*arguments)(bench)

    return hurt


def flip(bench: Bench) -> None:
    """Flip one bit of every model in the cache, which is then read: no record is left."""
    for path in bench.outputs.glob("cache/stages/*/*.onnx"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    forget(bench, mlflow=True)


def shorten(bench: Bench, pattern: str) -> None:
    """Keep the first 200 bytes of some files."""
    for path in bench.outputs.glob(pattern):
        path.write_bytes(path.read_bytes()[:200])


def cut_record_in_cache(bench: Bench) -> None:
    """MLflow still has it; the sweep does not."""
    shorten(bench, "cache/records/*/record.json")
    forget(bench, mlflow=False)


def cut_record_in_sweep(bench: Bench) -> None:
    """As if it had died while it wrote."""
    shorten(bench, "sweeps/*/*/record.json")
    for state in bench.outputs.glob("sweeps/*/sweep.json"):
        state.write_text(state.read_text().replace('"finished": true', '"finished": false'))


def cut_stage(bench: Bench) -> None:
    """The stages are read: no record is left."""
    shorten(bench, "cache/stages/*/result.json")
    forget(bench, mlflow=True)


def leftovers(bench: Bench) -> None:
    for name in ("stages", "records"):
        (bench.outputs / "cache" / name / "0123456789abcdef.99.tmp").mkdir(parents=True)
    (bench.outputs / "cache" / "locks").mkdir(exist_ok=True)
    (bench.outputs / "cache" / "locks" / "0123456789abcdef.lock").write_text("")


def lose_cache(bench: Bench) -> None:
    """Only MLflow knows: records and sweeps are gone."""
    shutil.rmtree(bench.outputs / "cache" / "records")
    shutil.rmtree(bench.outputs / "sweeps")


def two_in_one_folder(bench: Bench) -> tuple[int, str]:
    where = "hydra.sweep.dir=outputs/sweeps/one"
    first = start(bench, where)
    wait_for(first, lambda: (bench.outputs / "sweeps" / "one" / "sweep.json").exists())
    code, output = ended(start(bench, where))
    first_code, first_output = ended(first)
    return (code if first_code == 0 else first_code), first_output + output


def two_at_once(bench: Bench) -> tuple[int, str]:
    both = [start(bench, f"hydra.sweep.dir=outputs/sweeps/{n}") for n in "ab"]
    ends = [ended(p) for p in both]
    return max(code for code, _ in ends), "\n".join(output for _, output in ends)


def small_disk(spare_kib: int, readonly: bool) -> Callable[[Bench], tuple[int, str]]:
    def hurt(bench: Bench) -> tuple[int, str]:
        used = sum(p.stat().st_blocks for p in bench.outputs.rglob("*")) // 2
        kept = bench.folder / "kept"
        bench.outputs.rename(kept)
        bench.outputs.mkdir()
        size = f"size={used * 2 + 4096}k"
        mounted = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(bench.outputs)]
        if subprocess.run(mounted, capture_output=True, check=False).returncode:
            bench.outputs.rmdir()
            kept.rename(bench.outputs)
            return NO_RIGHT, "no right to mount a tmpfs"
        try:
            shutil.copytree(kept, bench.outputs, dirs_exist_ok=True)
            if readonly:
                again = ["mount", "-o", "remount,ro", str(bench.outputs)]
                subprocess.run(again, check=True)
            else:
                free = shutil.disk_usage(bench.outputs).free - spare_kib * 1024
                (bench.outputs / "filler").write_bytes(b"\0" * max(0, free))
            result = plain()(bench)
            if readonly:
                subprocess.run(["mount", "-o", "remount,rw", str(bench.outputs)], check=True)
            shutil.rmtree(kept)
            shutil.copytree(bench.outputs, kept)
        finally:
            subprocess.run(["umount", str(bench.outputs)], check=True)
            bench.outputs.rmdir()
            kept.rename(bench.outputs)
        (bench.outputs / "filler").unlink(missing_ok=True)
        return result

    return hurt


def one_bad_byte(name: str) -> Callable[[Bench], None]:
    """A byte that is no UTF-8 in every file of this name of the sweep, which is not finished."""

    def damage(bench: Bench) -> None:
        for path in bench.outputs.glob(f"sweeps/*/*/{name}"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] = 0xFF
            path.write_bytes(data)
        for state in bench.outputs.glob("sweeps/*/sweep.json"):
            state.write_text(state.read_text().replace('"finished": true', '"finished": false'))

    return damage


def secret(bench: Bench) -> tuple[int, str]:
    """A password in the store's address, and a value from the environment, are written nowhere."""
    code, output = plain(
        "tracking=server",
        f"tracking.uri='http://me:{SECRET}@127.0.0.1:9/?token={SECRET}'",
        "protocol.name=${oc.env:NAME}",
        NAME=SECRET,
    )(bench)
    for path in bench.folder.rglob("*"):
        if path.is_file() and SECRET.encode() in path.read_bytes():
            return 995, f"{path} holds the secret"
    return (995, output) if SECRET in output else (code, output)


def silent(bench: Bench) -> tuple[int, str]:
    """No device id in the home folder, with none of the switches set from outside."""
    code, output = plain(ORT_DISABLE_TELEMETRY="", CI="")(bench)
    home = list((bench.folder / "home").rglob("*"))
    found = [p for p in home if "device" in p.name or "_cid" in p.name]
    return (995, f"left {found}") if found else (code, output)


def long_temporary_folder(bench: Bench) -> tuple[int, str]:
    """A path of more than 80 characters, and no other place given."""
    long = bench.folder / "tmp" / ("t" * 90)
    long.mkdir()
    result = plain(TMPDIR=str(long), XDG_RUNTIME_DIR="")(bench)
    shutil.rmtree(long)
    return result


def lock_folder_is_a_link(bench: Bench) -> tuple[int, str]:
    """Somebody else has put a link where the locks go."""
    link = bench.folder / "locks" / f"pqbench-{os.getuid()}"
    target = bench.folder / "home"
    link.symlink_to(target)
    result = plain()(bench)
    link.unlink()
    return (995, "the link was followed") if list(target.glob("cpu.*")) else result


def a_sweep_that_cannot_be_locked(bench: Bench) -> tuple[int, str]:
    """An unfinished sweep of the same command that is another user's."""
    code, output = at_file("sweeps/*/1_*", signal.SIGKILL)(bench)
    if code != -signal.SIGKILL:
        return 998, output
    for path in bench.outputs.glob("sweeps/*/sweep.json"):
        lock = path.parent / ".sweep.lock"
        lock.unlink(missing_ok=True)
        lock.mkdir()
    result = plain()(bench)
    for lock in bench.outputs.glob("sweeps/*/.sweep.lock"):
        if lock.is_dir():
            lock.rmdir()
            shutil.rmtree(lock.parent)  # so that the bench counts the new sweep alone
    return result


def chatter(bench: Bench) -> tuple[int, str]:
    """A step that prints 60 MB: its log is cut."""
    code, output = plain(FAULT="chatter")(bench)
    big = [p for p in bench.logs("round") if p.stat().st_size > 12 * 2**20]
    return (995, f"{big} are not cut") if big else (code, output)
