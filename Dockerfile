# The two commands of the README, in a container. CPU only; on a GPU, leave out PIP_ARGS and run with --gpus all.
#
#   docker build -t densemtmd .                   installs
#   docker build --target test .                  ... and runs the tests
#   docker run -it densemtmd                      make demo
#   docker run -it -v "$PWD":/work -w /work densemtmd densemtmd infer photo.jpg --labelset all --checkpoint runs/my-run
FROM python:3.11-slim AS installed
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /densemtmd
COPY . .
ARG PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
RUN make .venv/.installed PIP_ARGS="$PIP_ARGS"
ENV PATH="/densemtmd/.venv/bin:$PATH"

FROM installed AS test
RUN make test

FROM installed
CMD ["make", "demo"]
