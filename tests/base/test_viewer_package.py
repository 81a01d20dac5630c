"""Tests the installation of the viewer's package."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medsam2_atlas.base import viewer_package as package
from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.cli import app
from viewers import with_fetched_viewer

Pin = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in with_fetched_viewer(tmp_path / "viewer").items():
        monkeypatch.setenv(name, value)
    return tmp_path / "viewer"


@pytest.fixture
def pin(monkeypatch: pytest.MonkeyPatch) -> Pin:
    def pinned(archive: Path) -> None:
        real = package.viewer_package()
        made = replace(real, bytes=archive.stat().st_size, integrity=package._integrity(archive), url=archive.as_uri())
        monkeypatch.setattr(package, "viewer_package", lambda: made)
        monkeypatch.setattr("medsam2_atlas.cli.viewer.viewer_package", lambda: made)

    return pinned


def packed(file: Path, contents: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo("package/dist/link.js")
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            archive.addfile(entry)
    return file


GOOD = {
    "package/package.json": b"{}",
    "package/dist/index.html": b"<html></html>",
    "package/dist/assets/a.png": b"png",
    "package/dist/app.js": b"app",
    "package/dist/app.js.map": b"map",
    "package/dist/ort/big.wasm": b"wasm",
}


def test_only_files_of_the_built_viewer_that_are_used_are_installed(folder: Path, tmp_path: Path, pin: Pin) -> None:
    archive = packed(tmp_path / "a.tgz", GOOD)
    pin(archive)
    assert package.installed_viewer() is None
    installed = package.install_viewer(archive)
    assert package.installed_viewer() == installed
    names = sorted(str(file.relative_to(installed)) for file in installed.rglob("*") if file.is_file())
    assert names == ["app.js", "assets/a.png", "index.html"]
    assert [file.name for file in folder.iterdir()] == [installed.name]


def test_a_second_installation_replaces_the_first(folder: Path, tmp_path: Path, pin: Pin) -> None:
    archive = packed(tmp_path / "a.tgz", GOOD)
    pin(archive)
    installed = package.install_viewer(archive)
    (installed / "left.js").write_text("old")
    package.install_viewer(archive)
    assert not (installed / "left.js").exists()
    assert [file.name for file in folder.iterdir()] == [installed.name]


def test_another_archive_is_refused_and_the_installed_viewer_stays(folder: Path, tmp_path: Path, pin: Pin) -> None:
    archive = packed(tmp_path / "a.tgz", GOOD)
    pin(archive)
    installed = package.install_viewer(archive)
    other = tmp_path / "b.tgz"
    other.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"is not @ohif/app 3\.13\.2: its size or SHA-512 differs"):
        package.install_viewer(other)
    assert (installed / "index.html").read_bytes() == b"<html></html>"


def test_an_archive_cannot_write_outside_of_the_folder(folder: Path, tmp_path: Path, pin: Pin) -> None:
    bad = {"package/dist/../../../escaped.js": b"x", "/package/dist/absolute.js": b"x", "package/dist/index.html": b"ok"}
    archive = packed(tmp_path / "a.tgz", bad, link="/etc/passwd")
    pin(archive)
    installed = package.install_viewer(archive)
    assert [file.name for file in installed.rglob("*")] == ["index.html"]
    assert not list(tmp_path.rglob("escaped.js"))


def test_an_unpacked_size_above_the_limit_is_refused(
    folder: Path, tmp_path: Path, pin: Pin, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(tmp_path / "a.tgz", GOOD)
    pin(archive)
    monkeypatch.setattr(package, "_MAX_BYTES", 5)
    with pytest.raises(InputError, match="unpacks to too many bytes"):
        package.install_viewer(archive)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_reported(folder: Path, tmp_path: Path, pin: Pin) -> None:
    archive = packed(tmp_path / "a.tgz", GOOD)
    pin(archive)
    folder.write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        package.install_viewer(archive)


def test_the_commands_fetch_install_and_show_the_viewer(folder: Path, tmp_path: Path, pin: Pin) -> None:
    archive = packed(tmp_path / "a.tgz", GOOD)
    pin(archive)
    run = CliRunner().invoke
    assert "the OHIF of MONAI Label" in run(app, ["viewer"]).output
    assert run(app, ["viewer", "fetch"]).exit_code == 0
    assert "@ohif/app 3.13.2" in run(app, ["viewer"]).output
    assert [file.name for file in folder.iterdir()] == [package.viewer_package().folder.name]
    assert run(app, ["viewer", "install", str(archive)]).exit_code == 0


def test_the_pinned_address_is_that_of_the_pinned_package() -> None:
    pinned = package.viewer_package()
    name = pinned.package.rpartition("/")[2]
    assert pinned.url == f"https://registry.npmjs.org/{pinned.package}/-/{name}-{pinned.version}.tgz"
    assert pinned.file == f"{pinned.package.removeprefix('@').replace('/', '-')}-{pinned.version}.tgz"
