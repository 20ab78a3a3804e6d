#!/usr/bin/env bash
# Install if needed, check style, types and floors, then run the whole test suite.
# Usage: bash scripts/test.sh [PYTEST ARGUMENTS ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
# Two processes, by file: tests of one file share models that take long to make.
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
