"""An erased study is erased from all versions of the grown atlas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blocks import PATIENT, QUICK, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, build_atlas, find_references, options
from medsam2_atlas.erasing.atlases import erase_reference
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies import atlas_store, grow_studies_atlas, grown_atlas


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "registration_config", lambda: QUICK)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    folder = tmp_path_factory.mktemp("base")
    for name in ("a", "b", "c"):
        labelled(folder, name, PATIENT)
    return build_atlas(find_references(folder), BuildOptions(registration=QUICK))


def test_no_version_of_the_atlas_contains_an_erased_study(tmp_path: Path, base: Atlas, quick: None) -> None:
    work = WorkFolder(tmp_path / "work")
    labelled(tmp_path / "final", "d", PATIENT)
    first = grow_studies_atlas(work, base, find_references(tmp_path / "final"))
    labelled(tmp_path / "final", "gone", PATIENT)
    grow_studies_atlas(work, base, find_references(tmp_path / "final"))
    labelled(tmp_path / "final", "e", PATIENT)
    grow_studies_atlas(work, base, find_references(tmp_path / "final"))
    assert len(atlas_store(work).versions) == 3
    assert not erase_reference(work.path / "atlas", "gone", final=True)
    versions = atlas_store(work).versions
    assert first["version"] in versions
    assert len(versions) == 2
    grown = grown_atlas(work, base)  # the new version is in use at once, without another registration
    assert grown is not None
    assert [reference.name for reference in grown.references] == ["a", "b", "c", "d", "e"]
    assert grown.template_version == base.template_version
    files = [path for path in (work.path / "atlas").rglob("*.json") if "versions" in str(path)]
    assert not any("gone" in path.read_text() for path in files)
    kept = {reference.file_name for reference in grown.references}
    assert {path.name for path in (work.path / "atlas" / "versions").rglob("references/*")} == kept
    again = grow_studies_atlas(work, base, [files for files in find_references(tmp_path / "final") if files.name != "gone"])
    assert again["version"] == grown.version


def test_a_common_space_that_was_averaged_from_an_erased_study_is_not_kept(tmp_path: Path, base: Atlas) -> None:
    folder = tmp_path / "atlas"
    store = atlas_store(WorkFolder(tmp_path))
    published = store.publish(base)
    assert not erase_reference(folder, "other", final=False)
    assert store.current == published
    assert erase_reference(folder, "other", final=True)  # a refused reference is still part of the common space
    assert (store.versions, store.current) == ([], None)


def test_a_version_that_cannot_be_read_is_not_kept(tmp_path: Path, base: Atlas) -> None:
    store = atlas_store(WorkFolder(tmp_path))
    about = store.publish(base) / "atlas.json"
    about.write_text(json.dumps(["a"]))
    assert erase_reference(tmp_path / "atlas", "other", final=False)
    assert store.versions == []
