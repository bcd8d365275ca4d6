# The programs in a container; by default for CPUs.
#   docker build --tag depth-anything .
#   docker build --tag depth-anything:cuda --build-arg EXTRAS=cuda,eval,video .
#   docker run --rm --volume "$PWD:/data" depth-anything photo.jpg --out depth
#   docker run --rm --gpus all --volume "$PWD:/data" --entrypoint python depth-anything:cuda \
#     -m depth_anything_jax.train --config=configs/student.py:vits --workdir=runs/student
# The CUDA libraries come as wheels with jax[cuda12]; the host needs a driver and its container toolkit.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# Any extras of setup.py: cuda, eval, torch, app, …
ARG EXTRAS=eval,train,video
WORKDIR /source
COPY setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY depth_anything_jax depth_anything_jax
COPY configs configs
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" && rm -rf build

# Weights of the Hub and compiled programs are kept below HOME: mount a volume there to keep them.
# Any user may write there, so `docker run --user "$(id -u):$(id -g)"` writes files that are yours.
ENV HOME=/home/user
RUN useradd --create-home --uid 1000 user && chmod 777 /home/user
USER 1000
WORKDIR /data
ENTRYPOINT ["depth-anything"]
