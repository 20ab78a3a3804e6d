#!/usr/bin/env bash
# Build the container, run DenseNet-121's experiment in it, write results/benchmark_results.csv.
# Usage: bash build_and_run.sh [--local] [KEY=VALUE ...]
#   --local  where there is no container engine: the Dockerfile's own pip steps in a fresh virtual
#            environment (PQBENCH_LOCAL_ENV, default .venv-local), without TensorRT's
# Without weights or data, and short:
#   bash build_and_run.sh dataset=synthetic model.weights=none protocol=quick backend=torch,ort
# With data: dataset.root=data/imagenette2-320, below this folder, which the container sees as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

local=""
if [ "${1:-}" = --local ]; then
    local=1
    shift
fi
mkdir -p outputs results data
# A folder of its own, or the table would hold an earlier run's cells; what was measured is found again.
sweep="outputs/sweeps/build_and_run_$(date +%Y-%m-%d_%H-%M-%S)"
run=(python -m pqbench experiment=predecessor_densenet "$@" "hydra.sweep.dir=$sweep")
table=(python scripts/predecessor_answer.py "$sweep" results/benchmark_results.csv)

some_failed() { # 3: some cell has no result, which the table says; all else ends here
    [ "$1" -eq 3 ] || exit "$1"
}

if [ -n "$local" ]; then
    env="${PQBENCH_LOCAL_ENV:-.venv-local}"
    [ -x "$env/bin/python" ] || "${PYTHON:-python3}" -m venv "$env"
    PATH="$(cd "$env" && pwd)/bin:$PATH"
    export PATH
    # The same lines that the container runs, but for TensorRT, whose packages want a driver's machine.
    grep '^RUN pip install' Dockerfile | grep -v tensorrt | sed 's/^RUN //' | while IFS= read -r step; do
        echo "+ $step"
        bash -euo pipefail -c "$step"
    done
    "${run[@]}" || some_failed $?
    exec "${table[@]}"
fi

engine="$(command -v docker || command -v podman || true)"
if [ -z "$engine" ] || ! "$engine" info >/dev/null 2>&1; then
    echo "build_and_run.sh: no container engine answers (docker or podman). Without one: bash $0 --local" >&2
    exit 1
fi
commit="" # of a clean tree alone: what was changed since has no commit
if changed="$(git status --porcelain 2>/dev/null)" && [ -z "$changed" ]; then
    commit="$(git rev-parse HEAD)"
fi
"$engine" build -t pqbench --build-arg "COMMIT=$commit" .
gpus=()
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    gpus=(--gpus all)
fi
in_container=("$engine" run --rm "${gpus[@]}" --shm-size 2g -v "$PWD/outputs:/pqbench/outputs"
    -v "$PWD/results:/pqbench/results" -v "$PWD/data:/pqbench/data" pqbench)
"${in_container[@]}" "${run[@]}" || some_failed $?
exec "${in_container[@]}" "${table[@]}"
