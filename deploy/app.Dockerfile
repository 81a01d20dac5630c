# The app with everything it needs. For a GPU: docker compose build --build-arg TORCH=cuda app
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/medsam2_atlas
ARG TORCH=cpu
COPY Makefile pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY requirements requirements
COPY lib lib
COPY apps apps
COPY configs configs
COPY weights weights
RUN make install TORCH=$TORCH && useradd --create-home atlas && install -d -o atlas -g atlas /data /data/models
USER atlas
ENV MEDSAM2_ATLAS_MODELS=/data/models \
    MEDSAM2_ATLAS_STATE=/data/state \
    MONAI_LABEL_SESSION_PATH=/data/sessions \
    MONAI_LABEL_DICOMWEB_CACHE_PATH=/data/cache
VOLUME /data
EXPOSE 8000
# Whether the process answers. /readyz tells whether it can save and load now; that is for balancers and monitors: a new
# start of the container mends neither a full disk nor a PACS that is away.
HEALTHCHECK --start-period=120s CMD [".venv/bin/python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
ENTRYPOINT [".venv/bin/medsam2-atlas"]
CMD ["--help"]
