"""Files are replaced completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import remove_folder, replacing, sha256, write_json


def test_a_file_replaces_the_old_one_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    write_json({"a": 1}, target)
    with pytest.raises(RuntimeError), replacing(target) as part:
        part.write_text("half")
        raise RuntimeError("power cut")
    assert target.read_text() == '{\n  "a": 1\n}\n'
    assert [f.name for f in tmp_path.iterdir()] == ["report.json"]


def test_a_folder_replaces_the_old_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with replacing(tmp_path / "atlas") as part:
            part.mkdir()
            (part / "x").write_text(content)
    assert (tmp_path / "atlas" / "x").read_text() == "new"
    assert [f.name for f in tmp_path.iterdir()] == ["atlas"]


def test_the_temporary_name_keeps_the_suffixes_of_the_format(tmp_path: Path) -> None:
    with replacing(tmp_path / "label.nii.gz") as part:
        assert part.name.endswith(".nii.gz")
        part.touch()


def test_the_longest_names_can_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 250 + ".json")
    write_json([1], target)
    write_json([2], target)
    assert target.read_text() == "[\n  2\n]\n"


@pytest.mark.parametrize("name", ["..", "../outside", "link", "", "inside/../.."])
def test_a_name_from_outside_never_chooses_what_is_erased(tmp_path: Path, name: str) -> None:
    kept, below = tmp_path / "outside" / "labels.txt", tmp_path / "series"
    kept.parent.mkdir()
    kept.write_text("15 organs")
    (below / "inside").mkdir(parents=True)
    (below / "link").symlink_to(kept.parent)
    with pytest.raises(StorageError, match="not removed"):
        remove_folder(below / name, below)
    assert kept.exists()
    assert (below / "inside").is_dir()
    remove_folder(below / "inside", below)
    remove_folder(below / "inside", below)
    assert not (below / "inside").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="folder does not exist"):
        write_json({}, tmp_path / "nowhere" / "r.json")


def test_the_checksum_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
