"""Model files on other machines: used where they are the same, or received once under their checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from batch_cases import stand_in_job
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.batch.session import Session
from medsam2_atlas.batch.shipping import pieces, placed, receive, with_files


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))


def atlas_and_weights(folder: Path) -> dict[str, str]:
    (folder / "atlas" / "maps").mkdir(parents=True)
    (folder / "atlas" / "atlas.json").write_text("{}")
    (folder / "atlas" / "maps" / "1.npz").write_bytes(b"map" * 1000)
    (folder / "weights.pt").write_bytes(b"weights")
    return {"atlas": str(folder / "atlas"), "checkpoint": str(folder / "weights.pt"), "device": "cpu", "config": "official"}


def test_files_on_a_shared_disk_are_used_where_they_are(tmp_path: Path) -> None:
    job = with_files(Session(stand_in_job(conf=atlas_and_weights(tmp_path))))
    assert [file.key for file in job.files] == ["atlas", "atlas", "checkpoint"]
    assert placed(job) == (job, ())


def test_missing_files_are_received_once_and_stand_for_the_paths(tmp_path: Path) -> None:
    conf = atlas_and_weights(tmp_path / "client")
    job = with_files(Session(stand_in_job(conf=conf)))
    contents = {file.sha256: Path(file.path).read_bytes() for file in job.files}
    (tmp_path / "client").rename(tmp_path / "elsewhere")  # another machine
    from medsam2_atlas.batch.shipping import _is_same

    _is_same.cache_clear()
    _, missing = placed(job)
    assert {*missing} == {*contents}
    for digest, content in contents.items():
        receive(digest, 0, content[:2], False, "one")
        receive(digest, 2, content[2:], True, "one")
    here, missing = placed(job)
    assert missing == ()
    assert (Path(here.conf["atlas"]) / "maps" / "1.npz").read_bytes() == b"map" * 1000
    assert Path(here.conf["checkpoint"]).read_bytes() == b"weights"
    assert here.conf["checkpoint"].endswith(".pt")
    assert here.conf["config"] == "official"
    assert placed(job)[0] == here


def test_a_damaged_file_is_not_kept(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(StorageError, match="damaged"):
        receive(digest, 0, b"wrong", True, "one")
    assert not list((tmp_path / "state").rglob(digest))


@pytest.mark.parametrize("digest", ["../../x", "/etc/x", ""])
def test_no_name_leads_out_of_the_cache(tmp_path: Path, digest: str) -> None:
    with pytest.raises(StorageError):
        receive(digest, 0, b"", True, "one")
    assert not (tmp_path / "state").exists()


def test_an_empty_file_has_one_piece(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(pieces(tmp_path / "empty")) == [(0, b"", True)]
