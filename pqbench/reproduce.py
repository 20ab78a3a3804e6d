"""``python -m pqbench.reproduce RECORD``: measure a record's experiment again; do figures agree?

The configuration inside the record is run, not today's YAML files, with its own folder and cache,
so that every stage is done again. First it is said whether the record or a file beside it was
altered after it was written, and in what this environment differs from the record's.

A record may be a stranger's: only classes of pqbench, and of packages that --allow names, are run;
everything else that it would run is shown and refused, and so is every environment variable that it
would read but those that --env names. --check and --lock run nothing and read nothing outside the
record's folder.

Exit codes: 0 every figure agrees; 1 some do not, or the record was altered; 2 it cannot be run.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pqbench.app.arguments import config_folder
from pqbench.app.trust import (
    check_classes,
    check_trust,
    read_environment,
    unread_variables,
    which_version,
    with_references,
)
from pqbench.core.errors import ConfigError, DataError, PqbenchError
from pqbench.core.record import Record, written_version
from pqbench.core.terminal import exit_code, open_streams
from pqbench.experiment.config import fingerprint, from_plain, to_plain, validate
from pqbench.machine.describe import describe
from pqbench.machine.software import versions
from pqbench.report.environments import machine
from pqbench.report.regression import (
    SAME,
    UNTRUSTED,
    Allowances,
    Figure,
    compare_records,
    print_figures,
)

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def main(argv: Sequence[str] | None = None) -> int:
    """Check, run again, compare.

    Returns:
        0, 1 or 2, see above.
    """
    args = _arguments().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        record = Record.load(args.record)
        folder = args.record if args.record.is_dir() else args.record.parent
        if args.lock:
            print("\n".join(lock(record, folder)))
            return 0
        print(f"Command   {record.command}")
        written, config = record.config, read_environment(record.config, args.env)
        problems = [*alterations(record, config), *record.altered_files(folder)]
        for problem in problems:
            print(f"ALTERED   {problem}")
        for difference in differences(record):
            print(f"Differs   {difference}")
        if args.check:
            print("Record    " + ("was altered" if problems else "is as it was written"))
            return 1 if problems else 0
        record.config = config
        version, commit = written_version(args.record), _commit(record)
        check_trust(_run_part(config), config_folder(), args.allow)
        check_classes(record.config, version, commit)
        again = run_again(record, written, args.outputs, which_version(version, commit))
    except PqbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    allowances = Allowances(latency=args.latency)
    return verdict(record, again, allowances, altered=bool(problems))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pqbench.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("record", type=Path, metavar="RECORD", help="record.json or its folder")
    parser.add_argument(
        "--outputs", type=Path, metavar="DIR",
        help="where it is run; default: outputs/reproduce/<time>. The folder of an earlier run "
        "lends its finished stages",
    )  # fmt: skip
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PACKAGE",
        help="a package of yours whose code the record may run; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME",
        help="an environment variable that the record may read; may be given again",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="do not run: only look at the record")
    parser.add_argument(
        "--lock", action="store_true", help="print the versions for pip install -r, and stop"
    )
    parser.add_argument(
        "--latency", type=float, default=Allowances().latency,
        help="share by which a median may differ between two runs; default %(default)g",
    )  # fmt: skip
    return parser


def alterations(record: Record, config: Mapping[str, Any]) -> Iterator[str]:
    """What shows that a record is not as it was written.

    Args:
        record: As it was read.
        config: Its configuration, with what may be read of the environment.
    """
    if record.digest is None:
        print("Record    has no digest (an earlier version wrote it): an edit may go unnoticed")
    elif record.altered:
        yield "a field was changed after the record was saved (its digest does not fit)"
    unread = unread_variables(_run_part(config))
    if unread:
        names = " ".join(f"--env {name}" for name in unread)
        print(f"Unread    its configuration reads the environment; to compare it, add {names}")
    elif config.get("compress") is None or fingerprint(config) != record.fingerprint:
        yield "its configuration is not the one that its fingerprint names"
    for x in record.latency:
        if abs(x.ms_per_sample * x.batch_size - x.p50_ms) > 1e-6 * abs(x.p50_ms):
            yield f"latency at batch {x.batch_size}: p50_ms and ms_per_sample contradict each other"


def differences(record: Record) -> Iterator[str]:
    """In what this environment differs from the record's."""
    now = describe(record.config.get("threads"))
    here = Record(**{**vars(record), "environment": now})
    if machine(record) != machine(here):
        yield f"machine: then {machine(record) or 'unknown'}, now {machine(here)}"
    then: Mapping[str, Any] = record.environment.get("libraries") or {}
    for name in sorted({*then, *versions()}):
        if then.get(name) != versions().get(name):
            yield f"{name}: then {then.get(name, 'absent')}, now {versions().get(name, 'absent')}"
    old, new = ((e.get("git") or {}) for e in (record.environment, now))
    if old.get("commit") != new.get("commit"):
        yield f"pqbench's commit: then {old.get('commit')}, now {new.get('commit')}"
    if old.get("dirty"):
        yield "pqbench's source had uncommitted changes then"


def lock(record: Record, folder: Path) -> list[str]:
    """Lines for ``pip install -r``: everything that was installed, or what the record names.

    Only lines ``name==version`` are taken: pip would follow options and addresses to anywhere.

    Raises:
        DataError: The record's list is a link.
    """
    path = record.path(folder, "lock")
    if path is not None and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if _REQUIREMENT.fullmatch(line)]
    libraries: Mapping[str, str] = record.environment.get("libraries") or {}
    lines = [f"{name}=={version}" for name, version in sorted(libraries.items())]
    return [line for line in lines if _REQUIREMENT.fullmatch(line)]


def _run_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration but for what is replaced when it is run again: where results go."""
    return {k: v for k, v in config.items() if k not in ("tracking", "outputs")}


def _commit(record: Record) -> str | None:
    commit = (record.environment.get("git") or {}).get("commit")
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def run_again(
    record: Record, written: Mapping[str, Any], outputs: Path | None, which: str = ""
) -> Record:
    """Run the record's configuration from its beginning.

    Args:
        record: The record, trusted, its configuration read.
        written: The configuration as it stood in the file: the new record holds its references.
        outputs: Where; None takes ``outputs/reproduce/<time>``.
        which: What to do where its configuration does not fit this version.

    Raises:
        DataError: The configuration does not fit this version of pqbench.
        ConfigError: A value of it is invalid here.
    """
    from pqbench.experiment.run import ExperimentRun

    missing = {"compress", "backend", "protocol", "model", "dataset", "tracking"} - set(
        record.config
    )
    if missing:
        lacks = ", ".join(sorted(missing))
        raise DataError(f"the record's configuration lacks {lacks}", hint=which)
    try:
        config = from_plain({**_run_part(record.config), "tracking": {"enabled": False}})
    except ConfigError as error:
        raise DataError(
            f"the record's configuration is not one of this version: {error.message}", hint=which
        ) from error
    when = datetime.now(UTC).strftime("%Y-%m-%d_%H-%M-%S")
    where = outputs or Path("outputs") / "reproduce" / when
    config = replace(
        config,
        outputs=str(where),
        cache=True,
        force=True,
    )
    validate(config)
    print(f"Running   in {where}")
    shown = with_references(to_plain(config), _run_part(written))
    return ExperimentRun(config, where / "run", shown=shown).run()


def verdict(record: Record, again: Record, allowances: Allowances, altered: bool) -> int:
    """Print both measurements and say whether they agree.

    Returns:
        0 if they do, 1 if not or if the record was altered, 2 if there is no result to compare.
    """
    from rich.console import Console

    if not record.ok or not again.ok:
        why = again.error.message if again.error else ""
        print(f"Status    then {record.status}, now {again.status}" + (f": {why}" if why else ""))
        if record.ok:
            return 2
        return 1 if altered or record.status != again.status else 0
    found = compare_records(record, again, allowances)
    print_figures(found, Console(), ("record", "now"))
    off = [f for f in found if f.verdict not in (SAME, UNTRUSTED)]
    print(_sentence(found, off))
    if altered:
        print("The record was altered after it was written.")
    if off or altered:
        return 1
    return 0 if any(f.verdict == SAME for f in found) else 2


def _sentence(found: Sequence[Figure], off: Sequence[Figure]) -> str:
    unsure = sum(f.verdict == UNTRUSTED for f in found)
    tail = f"; {unsure} could not be judged: disturbed or unstable" if unsure else ""
    judged = len(found) - unsure
    if not judged:
        return f"No figure could be judged{tail}."
    if off:
        names = "; ".join(f.name for f in off)
        return f"{len(off)} of {judged} figures do not agree: {names}{tail}."
    return f"All {judged} figures agree within their intervals{tail}."


if __name__ == "__main__":
    open_streams()
    sys.exit(exit_code(main))
