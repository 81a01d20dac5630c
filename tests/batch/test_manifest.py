"""The manifest: appended safely, repaired after interruptions, one entry for each case."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2_atlas.batch.manifest import Manifest


def entry(number: int, status: str = "done") -> dict[str, str]:
    return {"case": f"c{number}", "id": f"c{number}.nii.gz", "status": status, "made_by": "x"}


def written(file: Path, count: int = 3) -> bytes:
    manifest = Manifest(file)
    manifest.add_run("x", {"segmenter": "D"})
    for number in range(count):
        manifest.add(entry(number))
    manifest.close()
    return file.read_bytes()


def test_entries_are_read_back(tmp_path: Path) -> None:
    written(tmp_path / "m.jsonl")
    assert [e["case"] for e in Manifest(tmp_path / "m.jsonl").entries()] == ["c0", "c1", "c2"]


def test_a_manifest_cut_anywhere_keeps_whole_entries_and_can_be_appended_to(tmp_path: Path) -> None:
    whole = written(tmp_path / "m.jsonl")
    for cut in range(len(whole) + 1):
        file = tmp_path / "cut.jsonl"
        file.write_bytes(whole[:cut])
        manifest = Manifest(file)
        assert len(manifest) == max(0, whole[:cut].count(b"\n") - 1)
        manifest.add(entry(9))
        manifest.close()
        assert Manifest(file).entry("c9.nii.gz") is not None
        assert all(line.startswith(b"{") and line.endswith(b"}") for line in file.read_bytes().splitlines())


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_lines_from_elsewhere_are_ignored(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    file = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    file.write_bytes(b"\n".join([*lines, b'{"case": 1}', b"[[[", b""]))
    manifest = Manifest(file)
    manifest.add(entry(1))
    manifest.close()
    assert [e["case"] for e in Manifest(file).entries()] == ["c1"]


def test_the_last_entry_of_a_case_counts_and_the_others_are_removed(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    written(file)
    manifest = Manifest(file)
    manifest.add(entry(1, "failed"))
    manifest.compact()
    assert len(file.read_bytes().splitlines()) == 4
    again = Manifest(file).entry("c1.nii.gz")
    assert again is not None and again["status"] == "failed"


def test_names_that_are_not_utf_8_can_be_stored(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "m.jsonl")
    manifest.add({**entry(1), "id": "\udcff.nii"})
    manifest.close()
    assert Manifest(tmp_path / "m.jsonl").entry("\udcff.nii") is not None
