#!/usr/bin/env bash
# Install if needed, run the demonstration sweep on the embedded data, say how to look at it.
# Takes 5 to 8 minutes on two cores after installation; a second call finds what is there.
# Usage: bash scripts/demo.sh [KEY=VALUE ...]      (extra settings for the sweep)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh demo
exec .venv/bin/python -m pqbench experiment=demo -m "$@"
