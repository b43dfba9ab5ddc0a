# docs/deploy.md tells of it. The base can be exchanged for a mirror; every stage uses it.
ARG BASE=python:3.11-slim-bookworm

# What Gradless needs, in the versions and with the hashes of the locks.
FROM ${BASE} AS dependencies
# An index of torch wheels for one kind of device; empty takes those of the default index, which are for CUDA.
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/gradless
COPY deploy/requirements-torch.lock deploy/requirements.lock ./
# The wheels of another index have other hashes, so of those the version alone is held.
RUN python3 -m venv venv \
    && if [ -n "${TORCH_INDEX}" ]; then \
        sed -nE 's/^((torch|torchvision)==[^ ]+).*/\1/p' requirements-torch.lock >/tmp/torch.txt \
        && venv/bin/pip install --quiet --no-deps --index-url "${TORCH_INDEX}" --requirement /tmp/torch.txt; \
    else venv/bin/pip install --quiet --require-hashes --requirement requirements-torch.lock; fi \
    && venv/bin/pip install --quiet --require-hashes --requirement requirements.lock \
    && echo /opt/gradless/app >"$(echo venv/lib/python3*/site-packages)/gradless.pth"

# Gradless in a folder of its own, so that a change of the code moves a small layer, and the list of all that is installed.
FROM dependencies AS app
RUN python3 -m venv /tmp/sbom && /tmp/sbom/bin/pip install --quiet cyclonedx-bom==7.5.0
WORKDIR /build
COPY pyproject.toml README.md LICENSE gradless.py ./
COPY service ./service
RUN /opt/gradless/venv/bin/pip install --quiet --no-deps --no-build-isolation --target /opt/gradless/app . \
    && /opt/gradless/venv/bin/pip check \
    && /tmp/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /opt/gradless/sbom.cdx.json \
        /opt/gradless/venv/bin/python

# Packages of native code for the processor that builds, for each number of threads that containers will run with.
FROM app AS compiled
ARG COMPILE_THREADS="1 2"
COPY models /models
# hadolint ignore=DL3008
RUN mkdir -p /opt/gradless/cache \
    && if [ -n "${COMPILE_THREADS}" ]; then \
        apt-get update -qq && apt-get install -y -qq --no-install-recommends g++ libpython3-dev; \
    fi \
    && for threads in ${COMPILE_THREADS}; do \
        /opt/gradless/app/bin/gradless compile --models /models --cache /opt/gradless/cache --threads "${threads}" || exit 1; \
    done \
    && chmod -R a+rX /opt/gradless/cache

FROM ${BASE}
# The first process passes signals on and reaps whoever is left without a parent.
# hadolint ignore=DL3008
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends tini && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin gradless
COPY --from=dependencies /opt/gradless/venv /opt/gradless/venv
COPY --from=app /opt/gradless/app /opt/gradless/app
COPY --from=app /opt/gradless/sbom.cdx.json /opt/gradless/
COPY --from=compiled /opt/gradless/cache /opt/gradless/cache
COPY models /models
ENV PATH=/opt/gradless/app/bin:/opt/gradless/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GRADLESS_HOST=0.0.0.0 \
    GRADLESS_MODELS=/models \
    GRADLESS_CACHE=/opt/gradless/cache
# Last of what changes: a label is no reason to copy torch again.
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="gradless" \
      org.opencontainers.image.description="Serves PyTorch models and proves that serving builds no gradient graph" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
USER 10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
# Plain HTTP: a container that serves TLS by itself needs a check of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{p if (p := os.environ.get(\"GRADLESS_PORT\", \"\")).isdigit() else 8000}/health/ready', timeout=4)"]
ENTRYPOINT ["tini", "--", "gradless"]
CMD ["serve"]
