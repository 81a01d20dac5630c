#!/usr/bin/env bash
# Runs Orthanc with its DICOMweb plugin.
# Usage: apps/orthanc.sh FOLDER (FOLDER: where Orthanc stores its data)
#
# By default Orthanc answers only this machine, without a login: http://127.0.0.1:8042/dicom-web, and DICOM on port 4242. With
# ORTHANC_USER and ORTHANC_PASSWORD it also answers other machines, with this login. ORTHANC_HTTP_PORT and ORTHANC_DICOM_PORT
# change the ports.
set -euo pipefail
data=${1:?name the folder where Orthanc stores its data}
http=${ORTHANC_HTTP_PORT:-8042} dicom=${ORTHANC_DICOM_PORT:-4242}
user=${ORTHANC_USER:-} password=${ORTHANC_PASSWORD:-}
orthanc=$(command -v Orthanc || echo /usr/sbin/Orthanc)
plugin=$(find /usr/share/orthanc/plugins /usr/lib/orthanc -name 'libOrthancDicomWeb*.so*' 2>/dev/null | head -1)
test -n "$plugin" || { echo "Orthanc's DICOMweb plugin is missing: apt-get install orthanc-dicomweb" >&2; exit 1; }
login=false users=
if test -n "$user"; then
    test -n "$password" || { echo "ORTHANC_USER needs an ORTHANC_PASSWORD." >&2; exit 1; }
    case "$user$password" in *[\"\\]*) echo "The name and the password must not contain quotes or backslashes." >&2; exit 1 ;; esac
    login=true users="\"$user\": \"$password\""
fi
mkdir -p "$data"
(umask 077 && cat > "$data/orthanc.json") <<JSON
{
  "Name": "medsam2_atlas",
  "StorageDirectory": "$data/storage",
  "IndexDirectory": "$data/index",
  "RemoteAccessAllowed": $login,
  "AuthenticationEnabled": $login,
  "RegisteredUsers": {$users},
  "HttpPort": $http,
  "DicomPort": $dicom,
  "Plugins": ["$plugin"],
  "DicomWeb": {"Enable": true, "Root": "/dicom-web/"}
}
JSON
echo "DICOMweb: http://127.0.0.1:$http/dicom-web  (medsam2-atlas serve http://127.0.0.1:$http/dicom-web)"
exec "$orthanc" "$data/orthanc.json"
