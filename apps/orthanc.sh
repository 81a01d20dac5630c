#!/usr/bin/env bash
# Runs Orthanc with its DICOMweb plugin on this machine only: http://127.0.0.1:8042, DICOM on port 4242.
# Usage: apps/orthanc.sh FOLDER, where it keeps what it stores.
set -euo pipefail
data=${1:?name the folder where Orthanc keeps its data}
orthanc=$(command -v Orthanc || echo /usr/sbin/Orthanc)
plugin=$(find /usr/share/orthanc/plugins /usr/lib/orthanc -name 'libOrthancDicomWeb*.so*' 2>/dev/null | head -1)
test -n "$plugin" || { echo "Orthanc's DICOMweb plugin is missing: apt-get install orthanc-dicomweb" >&2; exit 1; }
mkdir -p "$data"
cat > "$data/orthanc.json" <<JSON
{
  "Name": "medsam2_atlas",
  "StorageDirectory": "$data/storage",
  "IndexDirectory": "$data/index",
  "RemoteAccessAllowed": false,
  "AuthenticationEnabled": false,
  "HttpPort": 8042,
  "DicomPort": 4242,
  "Plugins": ["$plugin"],
  "DicomWeb": {"Enable": true, "Root": "/dicom-web/"}
}
JSON
echo "DICOMweb: http://127.0.0.1:8042/dicom-web  (medsam2-atlas serve http://127.0.0.1:8042/dicom-web)"
exec "$orthanc" "$data/orthanc.json"
