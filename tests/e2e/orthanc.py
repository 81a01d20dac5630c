"""Runs a real Orthanc on the loopback address for tests."""

from __future__ import annotations

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

SCRIPT = Path(__file__).resolve().parents[2] / "apps" / "orthanc.sh"
PLACES = ("Orthanc", "/usr/sbin/Orthanc", "/usr/bin/Orthanc")
PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")


def orthanc_program() -> str | None:
    """Returns the path of the program; None if Orthanc or its DICOMweb plugin is not installed."""
    program = next((found for name in PLACES if (found := shutil.which(name))), None)
    return program if program and _plugin() else None


@contextmanager
def orthanc(folder: Path, user: str = "", password: str = "") -> Iterator[str]:
    """Yields the DICOMweb URL of an Orthanc that stores its data in a folder. With a user, it requires the password."""
    folder.mkdir(parents=True, exist_ok=True)
    http = free_port()
    environment = os.environ | {"ORTHANC_HTTP_PORT": str(http), "ORTHANC_DICOM_PORT": str(free_port())}
    environment |= {"ORTHANC_USER": user, "ORTHANC_PASSWORD": password}
    with (folder / "orthanc.log").open("w") as log:
        process = subprocess.Popen([str(SCRIPT), str(folder)], stdout=log, stderr=log, env=environment)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    auth = (user, password) if user else None
                    requests.get(f"http://127.0.0.1:{http}/system", auth=auth, timeout=2).raise_for_status()
                    break
                except requests.RequestException:
                    assert process.poll() is None and time.monotonic() < deadline, (folder / "orthanc.log").read_text()[-2000:]
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{http}/dicom-web"
        finally:
            process.terminate()
            process.wait(30)


def send(url: str, files: Sequence[Path], auth: tuple[str, str] | None = None) -> tuple[str, str]:
    """Stores a series and returns its study UID and series UID."""
    session = requests.Session()
    session.auth = auth
    client = DICOMwebClient(url, session=session)
    datasets = [pydicom.dcmread(file) for file in files]
    for ds in datasets:
        ds.preamble = b"\0" * 128  # without a preamble, Orthanc cannot return the file
    for start in range(0, len(datasets), 20):
        client.store_instances(datasets[start : start + 20])
    return str(datasets[0].StudyInstanceUID), str(datasets[0].SeriesInstanceUID)


def _plugin() -> Path | None:
    found = [file for place in PLUGINS for file in Path(place).glob("libOrthancDicomWeb*.so*") if Path(place).is_dir()]
    return found[0] if found else None


def free_port() -> int:
    """Returns a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
