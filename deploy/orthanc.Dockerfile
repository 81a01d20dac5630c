# Orthanc as Debian has it, with the script that also runs it without containers.
FROM debian:bookworm-slim
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends orthanc orthanc-dicomweb \
    && rm -rf /var/lib/apt/lists/*
COPY apps/orthanc.sh /usr/local/bin/orthanc.sh
RUN install -d -o orthanc -g orthanc /data
USER orthanc
VOLUME /data
EXPOSE 8042 4242
ENTRYPOINT ["/usr/local/bin/orthanc.sh", "/data"]
