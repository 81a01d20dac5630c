"""Hostile files in the real server: they cannot read other files, and cannot end or freeze the server."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import SimpleITK as sitk

from app.attack import attack
from app.cases import listed
from app.running import process_of, server
from medsam2_atlas.atlas import ReferenceFiles

SECRET = b"- {name: max, role: admin, token: deadbeefdeadbeefdeadbeefdeadbeef}\n" * 40


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("private") / "tokens.yaml"
    file.write_bytes(SECRET)
    return file


def metaimage(data: str, size: str = "10 8 6", more: str = "") -> bytes:
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", more, f"DimSize = {size}", "ElementType = MET_UCHAR"]
    return "\n".join([line for line in lines if line] + [f"ElementDataFile = {data}", ""]).encode() + bytes(480)


def nrrd(field: str, data: str) -> bytes:
    lines = ["NRRD0004", "type: uchar", "dimension: 3", "sizes: 10 8 6", "encoding: raw", f"{field}: {data}", "", ""]
    return "\n".join(lines).encode()


def hostile(secret: Path) -> dict[str, bytes]:
    """Returns hostile files by name: they refer to other files, or crash or hang ITK."""
    return {
        "path.mha": metaimage(str(secret)),
        "list.mha": metaimage(f"LIST\n{secret}"),
        "pattern.mha": metaimage("/etc/pass%d 1 6 1"),
        "device.mha": metaimage("/dev/zero"),
        "negative.mha": metaimage("LOCAL").replace(b"NDims = 3", b"NDims = -1"),
        "immense.mha": metaimage("LOCAL", "100000 100000 100000"),
        "path.nrrd": nrrd("data file", str(secret)),
        "other.nrrd": nrrd("datafile", str(secret)),
        "device.nrrd": nrrd("data file", "/dev/zero"),
        "negative.nrrd": nrrd("spacings", "1 1 1").replace(b"dimension: 3", b"dimension: -1"),
        "text.nii": b"\x5c\1\0\0" + bytes(400),
    }


def test_no_upload_reads_another_file_of_the_server(url: str, studies: Path, secret: Path) -> None:
    for name, content in hostile(secret).items():
        for address, field in (("datastore/label?image=first", "label"), ("datastore/image?image=x", "file")):
            answer = requests.put(f"{url}/{address}", files={field: (name, content)}, timeout=60)
            assert answer.status_code == 422, (name, address, answer.text)
            assert b"deadbeef" not in answer.content
        for method, address, field in (("PUT", "session/", "files"), ("POST", "infer/unet_3d", "file")):
            answer = requests.request(method, f"{url}/{address}", files={field: (name, content)}, timeout=60)
            assert answer.status_code == 422, (name, address, answer.text)
            assert b"deadbeef" not in answer.content
    assert not any(SECRET[:30] in file.read_bytes() for file in studies.rglob("*") if file.is_file())
    assert requests.get(f"{url}/info/", timeout=10).json()["datastore"]["total"] == 2


def test_a_small_upload_that_unpacks_to_gigabytes_does_not_fill_the_server(url: str, studies: Path, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((2, 2, 2), np.uint8))
    sitk.WriteImage(image, str(tmp_path / "small.nii"))
    header = bytearray((tmp_path / "small.nii").read_bytes()[:352])
    header[42:48] = np.array([700, 700, 600], "<i2").tobytes()
    bomb = gzip.compress(bytes(header) + bytes(700 * 700 * 600), 9)
    process = psutil.Process(process_of(url).pid)
    before = process.memory_info().rss
    answer = requests.put(f"{url}/datastore/image", files={"file": ("bomb.nii.gz", bomb)}, timeout=120)
    assert answer.status_code == 422, answer.text
    assert process.memory_info().rss - before < 100e6


def test_three_hundred_mutated_headers_do_not_end_the_server(url: str, studies: Path, tmp_path: Path) -> None:
    process = psutil.Process(process_of(url).pid)
    attack(url, 3, 10, tmp_path)
    before = process.memory_info().rss
    answers = attack(url, 7, 300, tmp_path)
    assert sum(answers.values()) == 300
    assert {status for _, status in answers} <= {200, 409, 422}, answers
    assert process.is_running()
    assert process.memory_info().rss - before < 100e6
    began = time.monotonic()
    assert requests.get(f"{url}/info/", timeout=10).status_code == 200
    assert time.monotonic() - began < 2


@pytest.fixture(scope="module")
def poisoned(
    short_files: ReferenceFiles, atlas_folder: Path, secret: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Yields a server that measures in the background, and its folder with one good study among hostile files."""
    folder = tmp_path_factory.mktemp("poisoned")
    shutil.copy(short_files.image, folder / "zz-good.nii.gz")
    for name, content in hostile(secret).items():
        (folder / f"a-{name}").write_bytes(content)
    (folder / "a-linked.nii.gz").symlink_to(short_files.image)
    (folder / "a-endless.nii").symlink_to("/dev/zero")
    os.mkfifo(folder / "a-pipe.nii")
    (folder / ("n" * 249 + ".mha")).write_bytes(metaimage("LOCAL"))
    conf = {"atlas": str(atlas_folder), "learning": "true", "reader_seconds": "20"}
    conf = {key.replace("reader_", "server_reader_"): value for key, value in conf.items()}
    with server(folder, tmp_path_factory.mktemp("server"), conf) as client:
        yield client.get_server_url().rstrip("/"), folder


def test_hostile_files_in_the_studies_folder_do_not_stop_the_server(poisoned: tuple[str, Path], secret: Path) -> None:
    url, _ = poisoned
    deadline = time.monotonic() + 300
    while True:  # until the good study, the last by name, has been measured; this takes 15 s on idle cores
        cases = listed(url)
        if cases["zz-good"]["novelty"] is not None or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert cases["zz-good"]["novelty"] is not None, cases
    assert not cases["zz-good"]["problem"]
    for name in hostile(secret):
        study = "a-" + name.rsplit(".", 1)[0]
        assert cases[study]["problem"], (study, cases[study])
    assert requests.get(f"{url}/info/", timeout=5).status_code == 200
    assert requests.get(f"{url}/datastore/", params={"output": "all"}, timeout=5).status_code == 200
    assert requests.post(f"{url}/activelearning/first", json={}, timeout=5).status_code == 200


def test_links_out_of_the_studies_folder_are_not_followed(poisoned: tuple[str, Path]) -> None:
    url, _ = poisoned
    stored = requests.get(f"{url}/datastore/", params={"output": "all"}, timeout=5).json()
    assert not {"a-linked", "a-endless", "a-pipe"} & set(stored["objects"])
    assert requests.get(f"{url}/datastore/image", params={"image": "a-linked"}, timeout=5).status_code == 404
    assert "server_roots" in listed(url)["a-linked"]["problem"]
