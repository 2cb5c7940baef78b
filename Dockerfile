# syntax=docker/dockerfile:1
# Headrace in a container: docs/guide/containers.md. Needs BuildKit, which `docker build` has by default.
ARG PYTHON=3.11.14-slim-bookworm
# The same with a C compiler.
ARG BUILDER=3.11.14-bookworm

FROM python:${BUILDER} AS build
# Extras of the package, comma-separated: `llamacpp` adds the embedded engine (34 MB). None of them brings torch.
ARG EXTRAS=""
WORKDIR /src
# Without pip of its own: what runs cannot install anything.
RUN python -m venv --without-pip /opt/headrace
COPY pyproject.toml README.md ./
COPY cache ./cache
COPY engines ./engines
COPY gateway ./gateway
COPY loadtest ./loadtest
COPY router ./router
# The way of a request is compiled: docs/adr/0006-compiled.md.
ENV HATCH_BUILD_HOOK_ENABLE_MYPYC=true
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/headrace/bin/python install --no-input ".${EXTRAS:+[${EXTRAS}]}"

FROM python:${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Headrace" \
      org.opencontainers.image.description="An OpenAI-compatible gateway in front of GPU engine pools" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# By number, so that Kubernetes' runAsNonRoot can tell. A new volume takes its owner from the folder it covers.
RUN groupadd --system --gid 10001 headrace \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin headrace \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/cache/headrace /var/lib/headrace
COPY --from=build /opt/headrace /opt/headrace
ENV PATH=/opt/headrace/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HEADRACE_CONFIG=/etc/headrace/headrace.yaml \
    HEADRACE_CACHE=/var/cache/headrace \
    HEADRACE_STATE=/tmp/headrace
USER 10001:10001
WORKDIR /tmp
# Models. With /tmp the only place that must be writable: the root file system may be read-only.
VOLUME ["/var/cache/headrace"]
EXPOSE 8080
STOPSIGNAL SIGTERM
# HEADRACE_HEALTH_URL names another address, for a gateway with TLS or on another port.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --start-interval=1s --retries=3 CMD ["headrace", "health"]
# It answers on 0.0.0.0 if the configuration says so, and such a configuration is refused without keys.
ENTRYPOINT ["headrace"]
CMD ["serve"]
