"""Measure the golden results of ``tests/conformance/*.yaml`` again and show what differs.

    python scripts/conformance.py           all files; a table; exit code 1 on a difference
    python scripts/conformance.py FILE ... --cells ort_int8      only some
    python scripts/conformance.py --write   put what is measured into the files

A file is one model on one data set:

    model: efficientnet_lite0           a name of conf/model
    dataset: imagenette                 a name of conf/dataset
    settings: [dataset.split=clean]     more of the command line; {data} is the folder of test data,
                                        {here} that of this file
    needs: imagenette2-224              folder or file in the test data that must be there; or null
    tolerance: {top1_pt: 1.0, size_ratio: 0.01, int8_share: 0.02}
    measured: {...}                     when, on what processor, with which versions
    cells:
      - name: per_tensor                unique together with the backend
        recipe: [ort_int8]
        backend: ort
        settings: [compress.ort_int8.per_channel=false]
        expected_failure: ...           cause, where a drop above MAX_DROP_PT, a size ratio above
                                        MAX_SIZE_RATIO or another status than ok is right; else null
        figures: {status, top1, drop_pt, agreement, size_ratio, int8_share, seconds, peak_mb}
        measured: {...}                 date and processor, where the file's are not this cell's

Every cell runs as an experiment, from data to record, with the shortest protocol: accuracy, size
and placement are of the deployed session. Seconds and MiB are those of the recipe's steps; they
are shown and not compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from pqbench.app.arguments import config_folder, register_repeats
from pqbench.core.record import Record
from pqbench.experiment import config as schema
from pqbench.machine.cpu import cpu_saturates_int8
from pqbench.machine.describe import describe

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "conformance"
MAX_DROP_PT = 1.0
MAX_SIZE_RATIO = 0.30
COMPARED = ("top1_pt", "size_ratio", "int8_share")
FIGURES = (
    "status",
    "top1",
    "drop_pt",
    "agreement",
    "size_ratio",
    "int8_share",
    "seconds",
    "peak_mb",
)
SHORT = (
    "tracking=none",
    "protocol=quick",
    "protocol.batch_sizes=[1]",
    "protocol.max_seconds=0.1",
    "protocol.block_s=0.02",
    "protocol.min_pairs=2",
    "protocol.processes=1",
    "protocol.weigh=false",
    "protocol.max_disturbed=0",
    "protocol.quiet_wait_s=0",
    "protocol.warmup_s=0.02",
)


def test_data() -> Path:
    """The folder of test data beside the checkout, or $PQBENCH_TEST_DATA."""
    given = os.environ.get("PQBENCH_TEST_DATA")
    return Path(given) if given else REPOSITORY.parent / "shared" / "data"


def absent(golden: Mapping[str, Any]) -> str:
    """What a file needs and this machine has not; empty if it has all."""
    needs = golden["needs"]
    path = test_data() / needs if needs else None
    return "" if path is None or path.exists() else f"no test data at {path}"


def _filled(setting: str) -> str:
    return setting.replace("{data}", str(test_data())).replace("{here}", str(GOLDEN))


def run(golden: Mapping[str, Any], cell: Mapping[str, Any], outputs: Path) -> Record:
    """Run one cell (its baseline too) as an experiment."""
    from hydra import compose, initialize_config_dir
    from omegaconf import open_dict

    from pqbench.experiment.run import ExperimentRun

    recipe = ",".join(cell["recipe"])
    overrides = [
        f"model={golden['model']}",
        f"dataset={golden['dataset']}",
        f"compress=[{recipe}]" if recipe else "compress=none",
        f"backend={cell['backend']}",
        *SHORT,
        f"outputs={outputs}",
        *(_filled(s) for s in (*golden["settings"], *cell["settings"])),
    ]
    schema.register()
    register_repeats(overrides)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", overrides=overrides)
    with open_dict(config):
        config.pop("hydra", None)
    settings = schema.read(config)
    schema.validate(settings)
    folder = outputs / "conformance" / f"{golden['model']}_{cell['name']}_{cell['backend']}"
    return ExperimentRun(settings, folder, overrides).run()


def figures(record: Record) -> dict[str, Any]:
    """What a golden file keeps of a record."""
    if not record.ok or record.accuracy is None or record.placement is None:
        why = record.error.message if record.error else record.reasons.get("accuracy", "")
        return {"status": str(record.status), "message": why}
    against = record.accuracy.against_baseline
    steps = [s for s in record.stages if s.name in record.experiment.recipe]
    peaks = [s.rss_peak_mb for s in steps if s.rss_peak_mb is not None]
    share = record.placement.int8_share
    return {
        "status": str(record.status),
        "top1": round(record.accuracy.top1, 4),
        "drop_pt": round(against.drop_pt, 2) if against else None,
        "agreement": round(against.agreement, 4) if against else None,
        "size_ratio": round(record.size.file_ratio, 4) if record.size.file_ratio else None,
        "int8_share": None if share is None else round(share, 3),
        "seconds": round(sum(s.seconds for s in steps), 1) if steps else None,
        "peak_mb": round(max(peaks)) if peaks else None,
    }


def differences(
    golden: Mapping[str, Any], now: Mapping[str, Any], tolerance: Mapping[str, float]
) -> list[str]:
    """In words, what of a cell lies outside its tolerance; empty if nothing does."""
    if golden["status"] != now["status"]:
        return [f"status {golden['status']} -> {now['status']} ({now.get('message', '')})"]
    found = []
    for key, name, scale in (
        ("top1_pt", "top1", 100),
        ("size_ratio", "size_ratio", 1),
        ("int8_share", "int8_share", 1),
    ):
        before, after = golden.get(name), now.get(name)
        if (before is None) != (after is None):
            found.append(f"{name} {before} -> {after}")
        elif before is not None and after is not None:
            change = scale * (after - before)
            if abs(change) > tolerance[key] + 1e-9:
                found.append(f"{name} {before} -> {after} (tolerance {tolerance[key] / scale:g})")
    return found


def failures(cell: Mapping[str, Any]) -> list[str]:
    """In words, what of a cell's golden figures is a failure and so needs a cause."""
    golden = cell["figures"]
    if golden["status"] != "ok":
        return [f"status {golden['status']}"]
    found = []
    if golden["drop_pt"] is not None and golden["drop_pt"] > MAX_DROP_PT:
        found.append(f"drop of {golden['drop_pt']} points")
    small = golden["size_ratio"] is None or golden["size_ratio"] <= MAX_SIZE_RATIO
    if any("int8" in step for step in cell["recipe"]) and not small:
        found.append(f"size ratio {golden['size_ratio']}")
    return found


def measured() -> dict[str, Any]:
    """When and with what the figures were taken."""
    now = describe(1)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": now["cpu"]["model"],
        "cpu_saturates_int8": cpu_saturates_int8(),
        "libraries": now["libraries"],
    }


def row(model: str, cell: Mapping[str, Any], now: Mapping[str, Any], verdict: str) -> str:
    """One line of the Markdown table."""
    cells = [model, cell["name"], cell["backend"]]
    cells += ["-" if now.get(key) is None else str(now[key]) for key in FIGURES[1:]]
    return "| " + " | ".join([*cells, verdict]) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """0: all as it was; 1: something differs; 2: nothing could be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: tests/conformance/*.yaml")
    parser.add_argument("--cells", help="only these names, separated by commas")
    parser.add_argument("--write", action="store_true", help="put what is measured into the files")
    parser.add_argument("--outputs", type=Path, help="keep runs and cache here; else a new folder")
    chosen = parser.parse_args(argv)
    files = chosen.files or sorted(GOLDEN.glob("*.yaml"))
    names = set(chosen.cells.split(",")) if chosen.cells else None
    with tempfile.TemporaryDirectory() as scratch:
        outputs = (chosen.outputs or Path(scratch)).absolute()
        head = ["model", "cell", "backend", *FIGURES[1:], "verdict"]
        print("| " + " | ".join(head) + " |")
        print("| --- " * len(head) + "|", flush=True)
        count, differ = 0, 0
        for file in files:
            golden = yaml.safe_load(file.read_text(encoding="utf-8"))
            missing = absent(golden)
            if missing:
                print(f"{file.name}: skipped, {missing}", file=sys.stderr)
                continue
            for cell in golden["cells"]:
                if names is not None and cell["name"] not in names:
                    continue
                now = figures(run(golden, cell, outputs))
                wrong = differences(cell["figures"] or {"status": None}, now, golden["tolerance"])
                count, differ = count + 1, differ + bool(wrong)
                print(row(golden["model"], cell, now, "; ".join(wrong) or "as it was"), flush=True)
                if chosen.write:
                    cell["figures"] = now
                    here = measured()
                    cell["measured"] = {k: v for k, v in here.items() if k != "libraries"}
                    _write(file, golden)
            if chosen.write and names is None:  # all of one day and machine: said once
                golden["measured"] = measured()
                for cell in golden["cells"]:
                    cell.pop("measured", None)
                _write(file, golden)
    print(f"\n{count} cells measured, {differ} differ", file=sys.stderr)
    return 2 if not count else int(differ > 0 and not chosen.write)


def _write(file: Path, golden: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(golden, sort_keys=False, width=100, allow_unicode=True)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
