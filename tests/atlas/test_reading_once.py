"""Building and growing read each file once, so that a checksum belongs to the voxels that were read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blocks import BLADDER, LEFT_KIDNEY, LIVER, PATIENT, QUICK, RIGHT_KIDNEY, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, GrowthOptions, build_atlas, find_references, grow, grow_atlas, reading
from medsam2_atlas.atlas.reading import PackedLabels, Snapshot, Snapshots
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging import volume
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.registration import Transform, groupwise

Reads = Counter[tuple[str, str, str]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The number of times that each file is decoded and hashed, by kind of read, folder and name."""
    counts: Reads = Counter()

    def counted(kind: str, function: Callable[..., Any], path_of: Callable[..., Path]) -> Callable[..., Any]:
        def read(*args: Any, **kwargs: Any) -> Any:
            path = path_of(*args)
            counts[kind, path.parent.name, path.name.removesuffix(".nii.gz")] += 1
            return function(*args, **kwargs)

        return read

    monkeypatch.setattr(volume, "run_task", counted("decoded", volume.run_task, lambda task, path: path))
    monkeypatch.setattr(reading, "sha256", counted("hashed", reading.sha256, lambda path: path))
    return counts


@pytest.fixture(autouse=True)
def aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces registration: patients of blocks are already aligned."""
    monkeypatch.setattr(grow, "register", lambda *_: Transform())
    monkeypatch.setattr(groupwise, "register", lambda *_: Transform())
    monkeypatch.setattr(groupwise, "prealign", lambda *_: Transform())
    monkeypatch.setattr(groupwise, "refine_affine", lambda fixed, moving, start, config: Transform())


def patients(folder: Path, *names: str) -> list[Any]:
    for name in names:
        labelled(folder, name, PATIENT)
    return find_references(folder)


def base_of(folder: Path) -> Atlas:
    return build_atlas(patients(folder, "a", "b", "c"), BuildOptions(registration=QUICK))


def once(*names: str, kinds: tuple[str, ...] = ("decoded", "hashed")) -> Reads:
    return Counter({(kind, folder, name): 1 for kind in kinds for folder in ("images", "labels") for name in names})


def test_building_reads_each_file_once(tmp_path: Path, reads: Reads) -> None:
    base_of(tmp_path)
    assert reads == once("a", "b", "c")


def test_growing_reads_each_file_once(tmp_path: Path, reads: Reads) -> None:
    base = base_of(tmp_path / "base")
    finals = tmp_path / "final"
    patients(finals, "kept", "corrected", "replaced")
    first = grow_atlas(base, find_references(finals), GrowthOptions(registration=QUICK))
    assert first.added == ("corrected", "kept", "replaced")
    labelled(finals, "corrected", PATIENT | {6: (slice(19, 26), *LIVER[1:])}, seen=PATIENT)
    labelled(finals, "replaced", PATIENT, seen={6: LIVER, 14: BLADDER})
    patients(finals, "new", "excluded")
    for name in ("refused", "trusted"):
        labelled(finals, name, {2: LEFT_KIDNEY, 3: RIGHT_KIDNEY, 6: LIVER}, seen=PATIENT)
    reads.clear()
    options = GrowthOptions(registration=QUICK, exclude=("excluded",), trust=("trusted",))
    grown = grow_atlas(first.atlas, find_references(finals), options)
    assert (grown.added, grown.kept) == (("corrected", "new", "replaced", "trusted"), ("a", "b", "c", "kept"))
    assert set(grown.refused) == {"refused"}
    assert reads == once("corrected", "new", "refused", "replaced", "trusted") + once("kept", kinds=("hashed",))


def test_the_labels_of_a_base_reference_that_is_signed_off_again_are_hashed_once(tmp_path: Path, reads: Reads) -> None:
    base = base_of(tmp_path)
    reads.clear()
    grown = grow_atlas(base, find_references(tmp_path), GrowthOptions(registration=QUICK))
    assert grown.kept == ("a", "b", "c")
    assert reads == Counter({("hashed", "labels", name): 1 for name in "abc"})


def test_growing_without_a_base_reads_each_file_once(tmp_path: Path, reads: Reads) -> None:
    finals = patients(tmp_path, "a", "b", "c")
    (tmp_path / "labels" / "c.nii.gz").write_bytes(b"broken")
    assert set(grow_atlas(None, finals, GrowthOptions(registration=QUICK)).refused) == {"c"}
    assert reads == once("a", "b", "c")


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_file_that_changes_while_it_is_read_is_refused_and_accepted_the_next_time(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(tmp_path / "base")
    (files,) = patients(tmp_path / "final", "d")
    other = {6: LIVER, 14: BLADDER}

    options = GrowthOptions(registration=QUICK)
    with monkeypatch.context() as patched:
        name = "read_labels" if kind == "label" else "read_volume"
        real = getattr(reading, name)
        patched.setattr(reading, name, lambda *args: (labelled(tmp_path / "final", "d", other), real(*args))[1])
        grown = grow_atlas(base, [files], options)
    assert (grown.added, grown.atlas.version) == ((), base.version)
    assert "changed while it was read" in grown.refused["d"]
    again = grow_atlas(base, [files], options).atlas.references[-1]
    assert (again.sha256, again.image_sha256, again.organs) == (sha256(files.label), sha256(files.image), (6, 14))


def test_a_file_that_changed_after_it_was_hashed_is_hashed_again(tmp_path: Path) -> None:
    file, snapshots = tmp_path / "a.bin", Snapshots()
    file.write_bytes(b"one")
    first = snapshots.of(file)
    assert snapshots.of(file) is first
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    with pytest.raises(InputError, match="changed while it was read"):
        first.check()
    assert snapshots.of(file).sha256 == sha256(file) != first.sha256


def test_a_folder_has_no_checksum_but_changes_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"one")
    found = Snapshot.of(tmp_path)
    found.check()
    assert found.sha256 == ""
    (tmp_path / "2").write_bytes(b"two")
    with pytest.raises(InputError, match="changed while it was read"):
        found.check()


def test_packed_labels_are_small_and_restore_each_organ() -> None:
    array = np.zeros((60, 70, 80), np.uint8)
    array[10:20, 0:9, 70:80], array[30:31, 40:60, 5:6] = 3, 15
    grid = Geometry((80, 70, 60), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    packed = PackedLabels.of(Volume(array, grid, grid))
    assert packed.organs == (3, 15)
    assert len(packed.data) < array.size // 100
    for k, box in packed.boxes.items():
        found = np.zeros(array.shape, bool)
        found[box] = packed.voxels()[packed.within(box)] == k
        assert (found == (array == k)).all()
