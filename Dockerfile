# Images of astrodetect: `serve` (the default: service, scoring, ranking), `train` (the same with TensorFlow) and `cluster`
# (the same with Ray, for KubeRay).
#   docker build -t astrodetect .
#   docker build -t astrodetect:train --target train .
# docs/how-to/containers.md says how to run them.
ARG BASE_IMAGE=docker.io/library/python:3.12-slim

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY requirements.txt deploy/requirements-build.txt ./
# As constraints without the hashes, of which pip demands one for the wheel built here too.
RUN sed -E '/^ +--hash=/d; s/ \\$//' requirements.txt > constraints.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /build \
    && /build/bin/pip install --requirement requirements-build.txt \
    && python -m venv --without-pip /opt/astrodetect
COPY pyproject.toml README.md LICENSE main.py train_model.py database.py setup_db.py ./
COPY sql sql
COPY astrodetect astrodetect
RUN /build/bin/python -m hatchling build -t wheel -d /wheels

# The packages, pinned, in an environment without pip; sbom.cdx.json lists what is in it.
FROM build AS serve-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/bin/pip --python /opt/astrodetect install --constraint constraints.txt /wheels/*.whl \
    && /build/bin/cyclonedx-py environment -o /opt/astrodetect/sbom.cdx.json /opt/astrodetect/bin/python

FROM build AS train-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/bin/pip --python /opt/astrodetect install --constraint constraints.txt "$(echo /wheels/*.whl)[train]" \
    && /build/bin/cyclonedx-py environment -o /opt/astrodetect/sbom.cdx.json /opt/astrodetect/bin/python

FROM build AS cluster-packages
COPY deploy/requirements-cluster.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/bin/pip --python /opt/astrodetect install --constraint constraints.txt --constraint requirements-cluster.txt \
        "ray[default]" /wheels/*.whl \
    && /build/bin/cyclonedx-py environment -o /opt/astrodetect/sbom.cdx.json /opt/astrodetect/bin/python

FROM ${BASE_IMAGE} AS runtime
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="astrodetect" \
      org.opencontainers.image.description="Classifies sky images and finds the unusual ones" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.documentation="docs/how-to/containers.md" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Writable: data and models, each a volume, and /tmp. Everything else may be read-only.
RUN useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin astrodetect \
    && install -d -o astrodetect -g astrodetect /astrodetect /astrodetect/data /astrodetect/models
ENV PATH=/opt/astrodetect/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /astrodetect
USER 10001:10001
# The service answers what is in progress and exits; other commands end as at Ctrl-C.
STOPSIGNAL SIGTERM
ENTRYPOINT ["astrodetect"]

FROM runtime AS train
COPY --from=train-packages /opt/astrodetect /opt/astrodetect
CMD ["train", "--help"]

FROM runtime AS cluster
COPY --from=cluster-packages /opt/astrodetect /opt/astrodetect

FROM runtime AS serve
COPY --from=serve-packages /opt/astrodetect /opt/astrodetect
EXPOSE 8000
ENV ASTRODETECT_TRAIN_ON_PAGE=false
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"PORT\") or 8000}/health/live', timeout=4)"]
CMD ["serve", "--host", "0.0.0.0"]
