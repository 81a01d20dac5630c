"""DICOM files of a folder or a ZIP archive are sent to a DICOMweb server."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.fake_pacs import FakePacs, fake_pacs
from medsam2_atlas.base.errors import InputError, StorageError, UnavailableError
from medsam2_atlas.cli import app
from medsam2_atlas.dicom.one_part import OnePart
from medsam2_atlas.dicom.sending import send, unpacked
from medsam2_atlas.dicom.web import DicomWeb, DicomWebLimits
from series_files import upright, write_series


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    with fake_pacs() as pacs:
        yield pacs


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Returns a folder with two series of three slices in subfolders, and files that are no instances."""
    folder = tmp_path / "export"
    for name in ("one", "two"):
        write_series(folder / name, upright(np.zeros((3, 8, 8))))
    (folder / "report.pdf").write_bytes(b"%PDF-1.7" + bytes(500))
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(100))
    return folder


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["dicom", "send", *map(str, arguments)])
    if isinstance(done.exception, Exception):
        raise done.exception
    return f"{done.exit_code} {done.stdout}"


def test_a_folder_is_sent_with_its_subfolders(pacs: FakePacs, export: Path) -> None:
    assert run(export, pacs.url) == f"0 sent to {pacs.url}: 6 instances; not sent: 0 instances, 2 files of other kinds\n"
    assert len(pacs.stored) == 6
    for file in export.glob("*/*"):
        assert any(file.read_bytes() in body for body in pacs.stored)


def test_a_zip_archive_is_sent(pacs: FakePacs, export: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for file in export.rglob("*"):
            archive.write(file, file.relative_to(export))
    assert "6 instances; not sent: 0 instances, 2 files" in run(tmp_path / "export.zip", pacs.url)
    assert len(pacs.stored) == 6


def test_an_instance_that_is_rejected_does_not_stop_the_others(pacs: FakePacs, export: Path) -> None:
    pacs.store_status = 400
    assert run(export, pacs.url).startswith("1 sent to")
    pacs.store_status = 200
    (export / "old").write_bytes((export / "one" / "000.dcm").read_bytes()[132:])  # as written before DICOM had file headers
    assert "6 instances; not sent: 1 instances" in run(export, pacs.url)


def test_an_answer_that_is_too_large_does_not_stop_the_others(pacs: FakePacs, export: Path) -> None:
    files = [(file.name, file) for file in sorted(export.glob("one/*"))]
    pacs.store_answer = bytes(3000)
    sent = send(files, DicomWeb(pacs.url, limits=DicomWebLimits(list_bytes=2000)))
    assert (len(pacs.stored), sent.count, list(sent.problems)) == (3, 0, [name for name, _ in files])
    assert "is larger than" in sent.problems[files[0][0]]


def test_a_large_file_is_not_read_into_memory(pacs: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "frames.dcm"
    file.write_bytes(bytes(128) + b"DICM" + np.random.default_rng(1).bytes(5_000_000))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read as a whole"))
    DicomWeb(pacs.url).store(file)
    with file.open("rb") as stream:
        body = OnePart(stream)
        pieces = list(iter(body.read, b""))
    assert max(map(len, pieces)) <= 1 << 20
    assert len(body) == sum(map(len, pieces))
    assert pacs.stored == [b"".join(pieces)]


def test_the_address_is_checked_before_the_first_file_is_sent(pacs: FakePacs, export: Path) -> None:
    with pytest.raises(StorageError, match="404"):
        run(export, pacs.url.replace("dicom-web", "dicom-web/none/none?"))
    with pytest.raises(UnavailableError):
        run(export, "http://127.0.0.1:9/dicom-web")
    assert not pacs.stored


def test_a_source_without_instances_is_refused(pacs: FakePacs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no DICOM instances"):
        run(tmp_path, pacs.url)
    with pytest.raises(InputError, match="does not exist"), unpacked(tmp_path / "none"):
        pass
    with pytest.raises(InputError, match="is not a URL"):
        run(tmp_path, "127.0.0.1:8042")
