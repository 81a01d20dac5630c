"""Growth of the atlas of a studies folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocks import LEFT_KIDNEY, LIVER, PATIENT, QUICK, RIGHT_KIDNEY, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, build_atlas, find_references, options
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies import StudiesGrowthOptions, atlas_store, excluded_references, grow_studies_atlas, grown_atlas


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "registration_config", lambda: QUICK)


@pytest.fixture
def base(tmp_path: Path) -> Atlas:
    for name in ("a", "b", "c"):
        labelled(tmp_path / "base", name, PATIENT)
    return build_atlas(find_references(tmp_path / "base"), BuildOptions(registration=QUICK))


def test_an_excluded_study_stays_excluded_until_it_is_included(tmp_path: Path, base: Atlas, quick: None) -> None:
    work = WorkFolder(tmp_path / "work")
    for name in ("d", "e"):
        labelled(tmp_path / "final", name, PATIENT)
    finals = find_references(tmp_path / "final")
    assert grown_atlas(work, base) is None
    first = grow_studies_atlas(work, base, finals, StudiesGrowthOptions(exclude=["e"]))
    assert (first["added"], first["replaces"]) == (["d"], None)
    second = grow_studies_atlas(work, base, finals)
    assert (second["kept"], second["added"], second["excluded"]) == (["a", "b", "c", "d"], [], ["e"])
    third = grow_studies_atlas(work, base, finals, StudiesGrowthOptions(include=["e"]))
    assert (third["added"], third["replaces"]) == (["e"], first["version"])
    assert excluded_references(work) == set()
    assert atlas_store(work).versions == [first["version"], third["version"]]
    grown = grown_atlas(work, base)
    assert grown is not None
    assert len(grown.references) == 5


def test_a_different_base_atlas_starts_a_new_atlas(tmp_path: Path, base: Atlas, quick: None) -> None:
    work = WorkFolder(tmp_path / "work")
    labelled(tmp_path / "final", "d", PATIENT)
    finals = find_references(tmp_path / "final")
    grow_studies_atlas(work, base, finals)
    other = build_atlas(find_references(tmp_path / "base")[:2], BuildOptions(registration=QUICK))
    assert grown_atlas(work, other) is None
    report = grow_studies_atlas(work, other, finals)
    assert (report["references"], report["replaces"]) == (3, None)


def test_refusals_are_reported_with_their_reason(tmp_path: Path, base: Atlas, quick: None) -> None:
    labelled(tmp_path / "final", "odd", {2: LEFT_KIDNEY, 3: RIGHT_KIDNEY, 6: LIVER}, seen=PATIENT)
    report = grow_studies_atlas(WorkFolder(tmp_path / "work"), base, find_references(tmp_path / "final"))
    assert "swapped?" in report["refused"]["odd"]
    assert report["references"] == 3
