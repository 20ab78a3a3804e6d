"""``python -m pqbench.layers RECORD [RECORD ...]``: which layer gained, and which paid.

One record is compared with its baseline; of several the last is compared with the first. Each is
started several times, timed, and profiled by its own runtime, kernel by kernel, in turns with the
others; kernels are traced back to the operators of the first one's model, and conversions are
charged to the layer that they are there for. Eager PyTorch is split by its modules. Records of ONNX
Runtime and OpenVINO may be mixed. Given a folder with ``--out``: tables, figure and a page.

Exit codes: 0 the layers account for the difference, or none is shown; 1 they do not; 2 nothing
could be compared.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pqbench.app.arguments import config_folder
from pqbench.app.trust import check_trust
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, DataError, PqbenchError, UnsupportedError
from pqbench.core.paths import inside
from pqbench.core.record import Record
from pqbench.core.terminal import exit_code, open_streams
from pqbench.experiment.config import from_plain, register
from pqbench.experiment.layer_turns import STARTS, SessionSpec, in_turns
from pqbench.experiment.scored_split import scored_split
from pqbench.report.layers import LayerTable
from pqbench.report.layers_view import figure, shares_to_csv, to_csv, to_html, to_rich, verdict
from pqbench.report.load import find_records

SAMPLES = 64


@dataclass(frozen=True)
class Side:
    """One session of the comparison.

    Attributes:
        name: For headers.
        record: What was measured.
        artifact: Folder of its model.
    """

    name: str
    record: Record
    artifact: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print.

    Returns:
        0, 1 or 2, see above.
    """
    from rich.console import Console

    open_streams()
    args = _arguments().parse_args(argv)
    try:
        sides = find_sides(args.records)
        table = measure(sides, args.batch, args.starts, args.allow)
        if args.out is not None:
            write(table, args.out, sides, args.batch, args.starts)
    except PqbenchError as error:
        print(f"pqbench: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pqbench: cannot write {args.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(to_rich(table, args.most))
    print("*: shown to have changed, after Holm's correction over the layers.")
    print("\n".join(verdict(table)))
    if args.out is not None:
        print(f"Page: {args.out / 'layers.html'}")
    return 0 if table.accounts or not table.differs else 1


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pqbench.layers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "records", type=Path, nargs="+", metavar="RECORD", help="record.json or its folder"
    )
    parser.add_argument("--batch", type=_count, default=1, metavar="N", help="samples per call")
    parser.add_argument(
        "--starts", type=_starts, default=STARTS, metavar="N",
        help="fresh starts of all sessions; default %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--most", type=_count, default=15, metavar="N",
        help="layers to print, those that changed most; default %(default)s",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="write csv, png and html there")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PACKAGE",
        help="run classes of this package too, if the records name some",
    )  # fmt: skip
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def _starts(text: str) -> int:
    if _count(text) < 3:
        raise argparse.ArgumentTypeError("below 3 starts nothing can be told")
    return int(text)


def find_sides(paths: Sequence[Path]) -> list[Side]:
    """The records that are meant: one alone is joined by its baseline.

    Raises:
        DataError: A record has no result or no model, or its baseline is not beside it.
    """
    found = [(Record.load(p), p if p.is_dir() else p.parent) for p in paths]
    if len(found) == 1:
        found.insert(0, _baseline(*found[0]))
    for record, folder in found:
        if not record.ok or "model" not in record.files:
            raise DataError(f"{folder} has no model ({record.status})")
    names = [f"{r.experiment.recipe_name} · {r.experiment.backend}" for r, _ in found]
    models = [r.experiment.model for r, _ in found]
    if len(set(models)) > 1:
        names = [f"{model} · {name}" for model, name in zip(models, names, strict=True)]
    return [
        Side(name, record, inside(folder, record.files["model"]))
        for name, (record, folder) in zip(names, found, strict=True)
    ]


def _baseline(record: Record, folder: Path) -> tuple[Record, Path]:
    if record.is_baseline:
        raise DataError(
            f"{folder} is a baseline", hint="name what it is to be compared with as well"
        )
    for other in find_records(folder.parent):
        if other[0].fingerprint == record.baseline and other[0].ok:
            return other
    raise DataError(
        f"the baseline of {folder} is not in {folder.parent}",
        hint="name the baseline's record first: pqbench layers BASELINE RECORD",
    )


def measure(
    sides: Sequence[Side], batch_size: int, starts: int, allow: Sequence[str] = ()
) -> LayerTable:
    """Time and profile the sessions in turns.

    Args:
        sides: The sessions, two at least.
        batch_size: Samples per call.
        starts: Fresh starts of all, three at least.
        allow: Packages beside pqbench whose classes the records may name.

    Raises:
        UnsupportedError: A runtime does not tell kernels, or the models have other inputs.
        PqbenchError: A session could not be made.
    """
    register()
    configs = []
    for side in sides:
        check_trust(side.record.config, config_folder(), allow)
        configs.append(from_plain(side.record.config))
    shapes = [tuple(spec.shape for spec in Artifact.load(side.artifact).inputs) for side in sides]
    if len(set(shapes)) > 1:
        raise UnsupportedError(
            "these models have different inputs: no layer of one is one of another"
        )
    devices = {str(config.backend.get("device", "cpu")).lower() for config in configs}
    if len(devices) > 1:
        raise UnsupportedError(f"these ran on {' and '.join(sorted(devices))}")
    specs = [
        SessionSpec(side.name, config.backend, side.artifact, config.threads)
        for side, config in zip(sides, configs, strict=True)
    ]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        split = scored_split(configs[0], work / "split", SAMPLES)
        return in_turns(specs, split.folder, work, devices.pop(), batch_size, starts)


def write(
    table: LayerTable, out: Path, sides: Sequence[Side], batch_size: int, starts: int
) -> None:
    """Write ``layers.csv``, ``operators.csv``, ``layers.png`` and ``layers.html``.

    Raises:
        ConfigError: ``out`` is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file", hint="give a folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "layers.csv").write_text(to_csv(table), encoding="utf-8")
    (out / "operators.csv").write_text(shares_to_csv(table), encoding="utf-8")
    png = io.BytesIO()
    figure(table).savefig(png, format="png", dpi=160)
    (out / "layers.png").write_bytes(png.getvalue())
    record = sides[-1].record
    cpu = (record.environment.get("cpu") or {}).get("model", "an unknown CPU")
    note = (
        f"Batch {batch_size}, {record.config['threads']} threads, {starts} starts in turns. The "
        f"records were measured on: {cpu}."
    )
    title = f"{record.experiment.model}: {' → '.join(table.sessions)}"
    (out / "layers.html").write_text(
        to_html(table, title, png.getvalue(), [note]), encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
