# The base can be exchanged for a mirror, or for one with CUDA; both stages use it.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# An index of torch wheels for one kind of device; empty takes what the default index has.
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/gradless/venv
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
RUN if [ -n "${TORCH_INDEX}" ]; then /opt/gradless/venv/bin/pip install --index-url "${TORCH_INDEX}" torch torchvision; fi \
    && /opt/gradless/venv/bin/pip install . \
    && find /opt/gradless/venv -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE}
LABEL org.opencontainers.image.title="gradless" \
      org.opencontainers.image.description="Serves PyTorch models and proves that serving builds no gradient graph" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin gradless
COPY --from=build /opt/gradless/venv /opt/gradless/venv
COPY models /models
ENV PATH=/opt/gradless/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GRADLESS_HOST=0.0.0.0 \
    GRADLESS_MODELS=/models \
    GRADLESS_CACHE=/tmp/gradless
USER 10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
# Plain HTTP: a container that serves TLS by itself needs a check of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"GRADLESS_PORT\", 8000)}/health/ready', timeout=4)"]
ENTRYPOINT ["gradless"]
CMD ["serve"]
