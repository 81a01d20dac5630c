# The app with everything it needs. For a GPU, set TORCH=cuda in .env and run: docker compose build app (docs/gpu.md)
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/medsam2_atlas
# cpu or cuda. The build cannot detect it, because the building machine may have no GPU.
ARG TORCH=cpu
COPY Makefile pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY requirements requirements
COPY lib lib
COPY apps apps
COPY configs configs
COPY weights weights
COPY deploy/health.py deploy/health.py
# Root owns the programs, so the app cannot change them. chmod makes them readable, whatever the modes in the checkout.
RUN make install TORCH=$TORCH \
    && .venv/bin/python -m compileall -q lib apps \
    && chmod -R a+rX,go-w . \
    && useradd --uid 1000 --user-group --create-home atlas \
    && install -d -m 700 -o atlas -g atlas /data /data/models /data/studies /data/tmp
USER 1000:1000
ENV MEDSAM2_ATLAS_MODELS=/data/models \
    MEDSAM2_ATLAS_VIEWER=/data/viewer \
    MEDSAM2_ATLAS_STATE=/data/state \
    MONAI_LABEL_SESSION_PATH=/data/sessions \
    MONAI_LABEL_DICOMWEB_CACHE_PATH=/data/cache \
    TMPDIR=/data/tmp \
    PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.title="medsam2_atlas" \
    org.opencontainers.image.description="MONAI Label app that pre-annotates 15 abdominal organs on CT" \
    org.opencontainers.image.licenses="Apache-2.0"
VOLUME /data
EXPOSE 8000
# Checks whether the process answers. /readyz also checks whether it can save and load. It is for load balancers and monitors:
# restarting the container helps neither with a full disk nor with a PACS that is down.
HEALTHCHECK --start-period=120s --timeout=10s CMD [".venv/bin/python", "deploy/health.py"]
ENTRYPOINT [".venv/bin/medsam2-atlas"]
CMD ["--help"]
