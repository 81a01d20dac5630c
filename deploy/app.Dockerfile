# The app with everything it needs. On a machine with a GPU, pip takes PyTorch's CUDA build by itself.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/medsam2_atlas
COPY Makefile pyproject.toml setup.py requirements.txt requirements-nodeps.txt README.md LICENSE NOTICE ./
COPY lib lib
COPY apps apps
COPY configs configs
COPY weights weights
RUN make install && useradd --create-home atlas && install -d -o atlas -g atlas /data /data/models
USER atlas
ENV MEDSAM2_ATLAS_MODELS=/data/models \
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
