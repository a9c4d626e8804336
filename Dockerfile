# The model as `docker build .` makes it, for machines without the `cog` command; the same interface as `cog build`:
# /src, port 5000, Cog's own server. From the parts that change least to those that change most, so that an edit of
# predict.py rebuilds only the last layer. Needs BuildKit, which is Docker's default builder since 23.0.

ARG BASE_IMAGE=python:3.12-slim
FROM ${BASE_IMAGE}

# What opencv-python links to (libGL, GLib), and an init: a killed worker must be reaped, not stay as a zombie.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 tini \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /src

# pip reads this variable: another index of torch builds, for an older CUDA or for the CPU alone, goes in here.
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --requirement /tmp/requirements.txt

# Cog itself, in the version that the harness is pinned to.
RUN --mount=type=bind,source=requirements-harness.txt,target=/tmp/requirements.txt \
    --mount=type=cache,target=/root/.cache/pip \
    grep --extended-regexp '^(cog|coglet)==' /tmp/requirements.txt | pip install --requirement /dev/stdin

# A normal user with an entry in /etc/passwd, which torch looks up; /tmp is the one place that may be written.
RUN useradd --uid 1000 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin cog

ENV COG_PREDICT_TYPE_STUB=predict.py:Predictor \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1

EXPOSE 5000
USER 1000
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "cog.server.http"]

# The answer to /health-check is always 200: only its text tells.
HEALTHCHECK --interval=15s --timeout=10s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import json, os, sys, urllib.request as r; u = f\"http://127.0.0.1:{os.environ.get('PORT', 5000)}/health-check\"; sys.exit(json.load(r.urlopen(u, timeout=9))['status'] not in ('READY', 'BUSY'))"]

# The weights directory, or only its manifest where the directory is mounted: --build-arg WEIGHTS=weights/manifest.toml
ARG WEIGHTS=weights
COPY ${WEIGHTS} weights/

COPY cog.yaml ./
COPY .cog/openapi_schema.json .cog/
COPY restoration/ restoration/
COPY predict.py ./
