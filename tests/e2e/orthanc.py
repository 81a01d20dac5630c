"""A real Orthanc on the loopback, for as long as a test needs it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
import requests
from dicomweb_client import DICOMwebClient

PLACES = ("Orthanc", "/usr/sbin/Orthanc", "/usr/bin/Orthanc")
PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")


def orthanc_program() -> str | None:
    """The program, where it is installed with its DICOMweb plugin."""
    program = next((found for name in PLACES if (found := shutil.which(name))), None)
    return program if program and _plugin() else None


@contextmanager
def orthanc(folder: Path) -> Iterator[str]:
    """Its DICOMweb URL; what it stores lies in the folder."""
    program = orthanc_program()
    assert program, "callers skip where Orthanc is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    http, dicom = _free_port(), _free_port()
    config = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpPort": http,
        "DicomPort": dicom,
        "Plugins": [str(_plugin())],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "orthanc.log").open("w") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, env={**os.environ})
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    requests.get(f"http://127.0.0.1:{http}/system", timeout=2).raise_for_status()
                    break
                except requests.RequestException:
                    assert process.poll() is None and time.monotonic() < deadline, (folder / "orthanc.log").read_text()[-2000:]
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{http}/dicom-web"
        finally:
            process.terminate()
            process.wait(30)


def send(url: str, files: Sequence[Path]) -> tuple[str, str]:
    """Stores a series; its study and series UID."""
    client = DICOMwebClient(url)
    datasets = [pydicom.dcmread(file) for file in files]
    for ds in datasets:
        ds.preamble = b"\0" * 128  # without one, Orthanc cannot give it back
    for start in range(0, len(datasets), 20):
        client.store_instances(datasets[start : start + 20])
    return str(datasets[0].StudyInstanceUID), str(datasets[0].SeriesInstanceUID)


def _plugin() -> Path | None:
    found = [file for place in PLUGINS for file in Path(place).glob("libOrthancDicomWeb*.so*") if Path(place).is_dir()]
    return found[0] if found else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
