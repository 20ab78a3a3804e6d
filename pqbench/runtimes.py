"""``python -m pqbench.runtimes``: install tools that need an environment of their own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pqbench.assets.converters import ENVIRONMENTS
from pqbench.assets.install_converters import install
from pqbench.core.errors import PqbenchError
from pqbench.core.terminal import exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """``list`` what there is, or ``install`` one.

    Returns:
        0; 1 if it cannot be installed.
    """
    parser = argparse.ArgumentParser(prog="python -m pqbench.runtimes", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("list", help="which there are, and where")
    wanted = commands.add_parser("install", help="download and make one")
    wanted.add_argument("name", choices=sorted(ENVIRONMENTS))
    args = parser.parse_args(argv)
    if args.what == "list":
        for name, environment in ENVIRONMENTS.items():
            here = str(environment.folder) if environment.ready() else environment.command
            print(f"{name}: {'in' if environment.ready() else 'not here:'} {here}")
        return 0
    try:
        install(ENVIRONMENTS[args.name], lambda line: print(line, flush=True))
    except PqbenchError as error:
        print(f"pqbench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
