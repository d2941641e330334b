# One image for every service of the mesh; what runs in it is its command:
#   docker run IMAGE run reference_services.brain.service:Brain
# It runs as a user of its own, on a read-only root file system; only CU_STATE_DIR is written, where a service needs it.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/meshkit
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The dependencies by themselves first: they change seldom, so this layer is kept when only the code changes.
RUN mkdir meshkit reference_services docs && touch meshkit/__init__.py reference_services/__init__.py \
    && /opt/meshkit/bin/pip install --constraint constraints.txt '.[fast,reference]'
COPY meshkit meshkit
COPY reference_services reference_services
COPY docs docs
# What only installs, compiles against or tests the rest stays behind, and where in the world telephone numbers belong.
RUN /opt/meshkit/bin/pip install --no-deps --force-reinstall . \
    && /opt/meshkit/bin/pip uninstall --yes pip setuptools \
    && rm -rf /opt/meshkit/lib/python3*/site-packages/phonenumbers/geodata \
    && find /opt/meshkit -type d \( -name tests -o -name include \) -prune -exec rm -rf {} + \
    && find /opt/meshkit -name '*.pyi' -delete

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 mesh \
    && useradd --uid 10001 --gid mesh --no-create-home --home-dir /var/lib/meshkit --shell /usr/sbin/nologin mesh \
    && install --directory --owner=mesh --group=mesh --mode=0700 /var/lib/meshkit
COPY --from=build /opt/meshkit /opt/meshkit
ENV PATH=/opt/meshkit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CU_STATE_DIR=/var/lib/meshkit \
    GRPC_HOST=0.0.0.0
USER mesh
WORKDIR /var/lib/meshkit
# Under TLS it is the health port that answers without a certificate.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD exec meshkit health "localhost:${CU_HEALTH_PORT:-${GRPC_PORT:?set it to the port of the service, which is asked whether it serves}}"
ENTRYPOINT ["meshkit"]
CMD ["--help"]
