# This file was not run yet: nobody has built an image with it.
#
# CPU:  docker build -t mmmambavision .
# GPU:  docker build -t mmmambavision --build-arg TORCH_INDEX=https://pypi.org/simple .
#       The wheel of torch on PyPI contains CUDA. The machine needs an NVIDIA driver and the NVIDIA Container Toolkit.
#
# docker run --rm mmmambavision doctor
# docker run --rm --gpus all --shm-size 8g -v "$PWD/data:/workspace/data" -v "$PWD/work_dirs:/workspace/work_dirs" mmmambavision \
#     train cascade_mask_rcnn_mambavision_t --data data/FOLDER
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# OpenCV needs libgl1 and libglib2.0-0. Triton needs gcc to build its launcher on a GPU.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mmmambavision
COPY requirements.txt .
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" $(grep ^torch requirements.txt)
COPY . .
RUN pip install --no-cache-dir ".[openmmlab,export]"

WORKDIR /workspace
ENTRYPOINT ["mmmambavision"]
