"""How to open MLflow on what was tracked: a command line and addresses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from urllib.parse import quote

from pqbench.tracking import content
from pqbench.tracking.settings import TrackingSettings

HOST = "127.0.0.1"
PORT = 5000
# Else MLflow opens with the pages of its last visitor, which may be those for language models.
CLASSIC = "workflowType=machine_learning"


def ui_command(settings: TrackingSettings, port: int = PORT) -> str | None:
    """The command that serves the local store's pages on this machine only; None for a server.

    One worker: MLflow's default of four, with their helpers, takes about 2 GB.
    """
    if settings.is_server:
        return None
    words = ["mlflow", "ui", "--backend-store-uri", settings.shown_uri]
    return shlex.join([*words, "--host", HOST, "--port", str(port), "--workers", "1"])


def base_url(settings: TrackingSettings, port: int = PORT) -> str:
    """Where the pages are: the server, or the local one that :func:`ui_command` starts."""
    return settings.shown_uri if settings.is_server else f"http://{HOST}:{port}"


def runs_url(
    base: str, experiment_id: str, sweep: str | None = None, view: str | None = None
) -> str:
    """The run table of an experiment.

    The address of the experiment itself would land on a page about language-model traces.

    Args:
        base: From :func:`base_url`.
        experiment_id: MLflow's id.
        sweep: Show only the runs of this sweep.
        view: Key from :func:`pqbench.tracking.push.save_view`, which has columns and its own
            filter, so that ``sweep`` is not needed.
    """
    url = f"{base}/#/experiments/{quote(experiment_id, safe='')}/runs"
    if view is not None:  # beside a filter in the address MLflow would not look at it
        return f"{url}?{CLASSIC}&viewStateShareKey={quote(view, safe='')}"
    wanted = None if sweep is None else content.sweep_filter(sweep)
    filtered = "" if wanted is None else f"&searchFilter={quote(wanted, safe='')}"
    return f"{url}?{CLASSIC}{filtered}"


def run_url(base: str, experiment_id: str, run_id: str) -> str:
    """The artifacts of one run."""
    place = f"{quote(experiment_id, safe='')}/runs/{quote(run_id, safe='')}"
    return f"{base}/#/experiments/{place}/artifacts?{CLASSIC}"


def compare_url(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The page that compares runs of one experiment."""

    def json_list(values: Sequence[str]) -> str:
        return quote(json.dumps(list(values), separators=(",", ":")), safe="")

    return (
        f"{base}/#/compare-runs?{CLASSIC}&runs={json_list(run_ids)}"
        f"&experiments={json_list([experiment_id])}"
    )
