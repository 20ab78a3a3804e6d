#!/usr/bin/env bash
# Make .venv and install pqbench with the extras given (default: demo). Quick when nothing changed.
# Usage: bash scripts/setup.sh [EXTRA]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra="${1:-demo}"

python=""
for candidate in "${PYTHON:-}" python3.12 python3.11 python3.13 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done
if [ -z "$python" ] && [ ! -x .venv/bin/python ]; then
    echo "pqbench: Python 3.11 or newer is needed. Install it, or name it: PYTHON=/path/to/python3.11 bash $0" >&2
    exit 1
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
# What was installed last: requirements, lock and extra; the stamp is written after success only.
stamp=".venv/.pqbench-$extra"
want="$(cat setup.cfg pyproject.toml constraints.txt scripts/setup.sh | cksum) $(pwd)"
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    echo "Installing pqbench[$extra] into .venv (the first time about 5 GB: PyTorch brings CUDA) ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extra]"
    if [ "$extra" = dev ]; then
        # Types of TensorRT for mypy, apart from the packages that run: they require TensorRT itself
        # (no machine without a GPU has it), and beside them it would seem to be installed.
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
            --target .venv/stubs tensorrt-stubs==10.13.0.35.1
        # Generated from C++, they have arguments named `in` and one without a default too many.
        sed -i.orig -E 's/\bin: list/inputs: list/; s/(power: Weights = None, channel_axis: int)\)/\1 = ...)/' \
            .venv/stubs/tensorrt_bindings/tensorrt.pyi
    fi
    echo "$want" > "$stamp"
else
    echo "pqbench[$extra] is installed in .venv."
fi
