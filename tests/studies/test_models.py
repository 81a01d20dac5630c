"""Score maps and segmenters of a set of studies are computed once and shared."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fake_segmenters import plain_models
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.segmenters.registry import model_of
from medsam2_atlas.storage import tag_name
from medsam2_atlas.studies.models import Models

GRID = Geometry((4, 3, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def ct(value: float) -> Volume:
    return Volume(np.full(GRID.shape, value, np.float32), GRID, GRID)


def test_score_maps_of_a_prediction_are_reused_for_the_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[float, str]] = []

    def make(image: Volume, atlas: Any, **_: Any) -> object:
        made.append((float(image.array.max()), atlas.version))
        return object()

    monkeypatch.setattr("medsam2_atlas.studies.models.score_maps", make)
    models, first, second = plain_models(), SimpleNamespace(version="1"), SimpleNamespace(version="2")
    kept: Any = models.score_maps(ct(0), first)  # type: ignore[arg-type]
    assert models.score_maps(ct(0), first) is kept  # type: ignore[arg-type]
    assert models.score_maps(ct(0), second) is not kept  # type: ignore[arg-type]
    models.score_maps(ct(7), first)  # type: ignore[arg-type]
    models.score_maps(ct(0), first)  # type: ignore[arg-type]
    assert made == [(0, "1"), (0, "2"), (7, "1"), (0, "1")]  # the score maps of two CTs are kept


def test_a_segmenter_is_created_once_and_unknown_ones_are_refused() -> None:
    models = plain_models()
    assert models.segmenter("D") is models.segmenter("D")
    assert models.segmenter("D") is not models.segmenter("B")
    with pytest.raises(InputError, match="is not a segmenter"):
        models.segmenter("G")


def test_only_configured_folders_are_accepted(tmp_path: Path) -> None:
    models = Models({"bundle:mine": str(tmp_path), "device": "cpu"})
    assert models.folders() == ["bundle:mine"]
    assert models.folder("bundle:mine") == tmp_path
    with pytest.raises(InputError, match=r"bundle:other: has no folder\. Name it: bundle:other=FOLDER"):
        models.folder("bundle:other")
    with pytest.raises(InputError, match="has no folder"):
        models.segmenter("bundle:other")


@pytest.mark.parametrize("name", ["bundle:my net", "bundle:../x", "bundle:", "bundel:a", "D:a", f"nnunet:{'a' * 58}"])
def test_a_folder_s_name_that_cannot_be_a_label_tag_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names no folder of a segmenter"):
        Models({name: str(tmp_path)})


def test_the_longest_name_of_a_folder_is_a_label_tag(tmp_path: Path) -> None:
    name = f"bundle:{'a' * 57}"
    assert Models({name: str(tmp_path)}).folders() == [name]
    assert tag_name(model_of(name)) == f"bundle-{'a' * 57}"


def test_commands_without_studies_have_no_work_folder() -> None:
    models = plain_models()
    assert models.registrations is None
    with pytest.raises(ValueError, match="without a studies folder"):
        _ = models.work
    with pytest.raises(MedSAM2AtlasError):
        models.segmenter("bundle:none").check()


def test_a_slowly_loading_folder_does_not_delay_other_models(tmp_path: Path) -> None:
    models, file = plain_models(), tmp_path / "weights"
    file.touch()
    begun, end = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        end.wait(30)
        return "slow"

    loads: list[str] = []
    threads = [threading.Thread(target=lambda: loads.append(models.loaded("a", [file], slow))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    assert models.loaded("b", [file], lambda: "quick") == "quick"
    assert models.segmenter("D").name == "D"
    begun.clear()
    end.set()
    for thread in threads:
        thread.join(10)
    assert loads == ["slow", "slow"]
    assert not begun.is_set()  # loaded once
