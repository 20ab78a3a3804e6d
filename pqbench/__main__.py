"""``python -m pqbench``: the Hydra app."""

from __future__ import annotations

import sys

import hydra

from hydra_plugins import pqbench_search
from pqbench.app.arguments import config_folder, prepare
from pqbench.app.job import run
from pqbench.app.outcome import INTERRUPTED, OUTCOME, say
from pqbench.core import interrupt as stop
from pqbench.core.telemetry import switch_off
from pqbench.core.terminal import open_streams


def main() -> None:
    """Entry point of ``python -m pqbench`` and of the ``pqbench`` command."""
    switch_off()
    open_streams()
    stop.install()
    pqbench_search.register()
    sys.argv[1:] = prepare(sys.argv[1:])
    app = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    try:
        app(run)()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        say("stopped. What is finished is kept; the same command goes on from there.")
        sys.exit(INTERRUPTED)
    sys.exit(OUTCOME.exit_code)


if __name__ == "__main__":
    main()
