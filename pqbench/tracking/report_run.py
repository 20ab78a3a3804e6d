"""The report of a sweep in MLflow: one run that holds its page, tables and figures as artifacts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pqbench.tracking.content import sweep_filter
from pqbench.tracking.settings import TrackingSettings
from pqbench.tracking.store import StoreError, opened

log = logging.getLogger(__name__)
NOTE = 7900  # characters: MLflow cuts a tag at 8,000


def push_report(
    settings: TrackingSettings,
    experiment_id: str,
    sweep: str,
    files: Sequence[Path],
    answer: str = "",
) -> str | None:
    """Log the files of a report; into the same run if the sweep has one already.

    The run carries the tag ``report_of`` and not ``sweep``, so that the table of the sweep's runs
    stays one line per experiment.

    Args:
        settings: Which store.
        experiment_id: MLflow's id of the experiment.
        sweep: Name of the sweep.
        files: What :func:`pqbench.report.write.write_report` wrote.
        answer: Markdown that the run's note begins with.

    Returns:
        The run's id; None if the store cannot be used, which a warning tells.
    """
    if not settings.enabled or sweep_filter(sweep) is None:
        return None
    try:
        with opened(settings) as client:
            found = client.search_runs([experiment_id], f'tags.report_of = "{sweep}"')
            where = "Open `report.html` under Artifacts; figures and tables lie beside it."
            note = f"{answer}\nReport of {sweep}. {where}".lstrip()[:NOTE]
            if found:
                run_id = str(found[0].info.run_id)
                client.set_tag(run_id, "mlflow.note.content", note)
            else:
                tags = {"report_of": sweep, "mlflow.note.content": note}
                run = client.create_run(experiment_id, tags=tags, run_name=f"report · {sweep}")
                run_id = str(run.info.run_id)
            for path in files:
                folder = "figures" if path.suffix in (".png", ".pdf") else None
                client.log_artifact(run_id, str(path), folder)
            client.set_terminated(run_id)
    except StoreError as error:
        log.warning("no report in MLflow: %s", error)
        return None
    return run_id
