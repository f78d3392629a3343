# fl_sim without a checkout, on PyTorch for the CPU:
#
#   docker build --tag fl-sim .
#   docker run --rm --volume "$PWD:/work" --user "$(id -u):$(id -g)" fl-sim sweep experiment.py
#
# For a GPU: --build-arg TORCH=cu130, a folder of https://download.pytorch.org/whl, and --gpus all.
# Ray's workers share memory: --shm-size 2g.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

ARG TORCH=cpu
ARG EXTRAS=lite0,fm,dp,check
COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt \
      --extra-index-url "https://download.pytorch.org/whl/${TORCH}" "/source[${EXTRAS}]" \
 && rm -r /source \
 && useradd fl_sim \
 && install --directory --mode 1777 /home/fl_sim /work

USER fl_sim
WORKDIR /work
ENV HOME=/home/fl_sim USER=fl_sim OMP_NUM_THREADS=1
ENTRYPOINT ["fl-sim"]
CMD ["--help"]
