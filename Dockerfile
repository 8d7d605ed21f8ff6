# Training and evaluation on machines with NVIDIA GPUs; the driver is all that the host needs besides Docker and its
# NVIDIA container toolkit, since JAX's wheels bring CUDA along.
#
#     docker build -t rog_jax .
#     docker run --gpus all -v "$PWD":/work -w /work rog_jax rog-train --config configs/lvis_r50.py --workdir runs/r50
FROM python:3.12-slim
WORKDIR /src
COPY requirements.txt pyproject.toml README.md LICENSE ./
COPY configs configs
COPY rog_jax rog_jax
ARG EXTRA=cuda
RUN pip install --no-cache-dir ".[$EXTRA]" && pip install --no-cache-dir --no-deps lvis==0.5.3
# JAX takes its share of a GPU's memory at the start: here 90 % instead of its own 75 %, which leaves a quarter unused
# where a run has the GPU to itself. Where it has not: -e XLA_PYTHON_CLIENT_MEM_FRACTION=0.5
ENV XLA_PYTHON_CLIENT_MEM_FRACTION=0.9
# In the mounted folder, or each container would compile everything anew.
ENV JAX_COMPILATION_CACHE_DIR=/work/.cache/jax
WORKDIR /work
CMD ["rog-train", "--help"]
