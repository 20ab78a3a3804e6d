"""``python -m pqbench``: the Hydra app."""

from __future__ import annotations

import sys

import hydra
from hydra.core.plugins import Plugins

from hydra_plugins.pqbench_search import SearchSweeper
from pqbench.app.arguments import config_folder, prepare
from pqbench.app.callbacks import OUTCOME
from pqbench.app.job import run
from pqbench.core import interrupt as stop

INTERRUPTED = 130


def main() -> None:
    """Entry point of ``python -m pqbench`` and of the ``pqbench`` command."""
    stop.install()
    Plugins.instance().register(SearchSweeper)  # Hydra's scan does not see an editable install
    sys.argv[1:] = prepare(sys.argv[1:])
    app = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    try:
        app(run)()
    except KeyboardInterrupt:
        print(
            "\npqbench: stopped. What is finished is kept; the same command goes on from there.",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
    sys.exit(OUTCOME.exit_code)


if __name__ == "__main__":
    main()
