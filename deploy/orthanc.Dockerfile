# Debian's Orthanc, started by the same script as without containers.
FROM debian:bookworm-slim
# These are the ids of the package's user in earlier images. The files in existing volumes belong to them.
RUN groupadd --system --gid 102 orthanc \
    && useradd --system --uid 101 --gid orthanc --home-dir /var/lib/orthanc --no-create-home orthanc \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends orthanc orthanc-dicomweb \
    && rm -rf /var/lib/apt/lists/*
COPY apps/orthanc.sh /usr/local/bin/orthanc.sh
RUN chmod 755 /usr/local/bin/orthanc.sh && install -d -m 700 -o orthanc -g orthanc /data
USER 101:102
LABEL org.opencontainers.image.title="Orthanc for medsam2_atlas" org.opencontainers.image.licenses="GPL-3.0-or-later"
VOLUME /data
EXPOSE 8042 4242
HEALTHCHECK --start-period=60s --timeout=5s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8042"]
ENTRYPOINT ["/usr/local/bin/orthanc.sh", "/data"]
