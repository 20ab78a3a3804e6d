# pqbench with CUDA 13 and TensorRT 10, for machines with an NVIDIA GPU and a container engine.
# NOT BUILT OR RUN YET: it was written on a machine that has neither. Report what does not work.
#
#   docker build -t pqbench --build-arg COMMIT="$(git rev-parse HEAD)" .
#   docker run --rm --gpus all -v "$PWD/outputs:/pqbench/outputs" pqbench python -m pqbench --backends
#   docker run --rm --gpus all -v "$PWD/gpu_check:/out" pqbench python scripts/gpu_check.py --out /out
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# g++ and Python's headers: torch.compile generates C++.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv g++ git \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /pqbench
COPY . .
# The history stays outside: which commit this is, for the records (as in an archive that git makes).
ARG COMMIT=
RUN if [ -n "$COMMIT" ]; then echo "node: $COMMIT" > .git_archival.txt; fi
RUN pip install -c constraints.txt -e '.[demo,gpu]' pytest pytest-timeout hypothesis
# onnxruntime-gpu links libnvinfer.so.10: TensorRT 10 for both the provider and the native backend.
# Its packages fetch the libraries from NVIDIA's own server while they are installed.
RUN pip install -c constraints.txt 'tensorrt-cu13>=10.13,<11' nvidia-curand

CMD ["python", "-m", "pqbench", "--help"]
