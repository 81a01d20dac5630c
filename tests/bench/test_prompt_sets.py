"""The sets of the benchmark of prompts: which references belong to which target."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from leave_one_out import made_from
from prompt_sets import chosen, subject_of, tasks_of

from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.registration import registration_config

PHASES = ("native", "late_arterial", "portal_venous")


def made(folder: Path, *names: str) -> Path:
    """Creates empty files of images and label maps, whose contents the tasks do not depend on."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for name in names:
            (folder / kind / f"{name}.nii.gz").touch()
    return folder


def test_references_of_the_set_phases_are_other_subjects_in_another_phase(tmp_path: Path) -> None:
    subjects = ("generated-r0", "generated-r1", "generated-r2", "generated-t0", "generated-t1")
    tasks = tasks_of("phases", made(tmp_path / "phases", *(f"{s}-{p}" for s in subjects for p in PHASES)))
    assert len(tasks) == len({task.name for task in tasks}) == 6 * 2 * 2  # pairs of phases, numbers of references, targets
    for task in tasks:
        phase = task.target.name.rpartition("-")[2]
        others = [reference.name.rpartition("-")[2] for reference in task.references]
        assert len(set(others)) == 1
        assert phase not in others
        assert subject_of(task.name) not in {subject_of(reference.name) for reference in task.references}
    assert {len(task.references) for task in tasks} == {1, 3}
    by_atlas = {task.atlas: task.references for task in tasks}
    assert all(by_atlas[task.atlas] == task.references for task in tasks)


def test_variants_of_a_subject_are_not_its_references(tmp_path: Path) -> None:
    tasks = tasks_of("anatomy", made(tmp_path / "anatomy", "a-0", "a-1", "b-0", "b-1"))
    assert {task.name: [r.name for r in task.references] for task in tasks} == {
        "a-0": ["b-0", "b-1"], "a-1": ["b-0", "b-1"], "b-0": ["a-0", "a-1"], "b-1": ["a-0", "a-1"],
    }  # fmt: skip
    assert [task.name for task in chosen(tasks, "a-")] == ["a-0", "a-1"]
    assert chosen(tasks, "") == tasks


@pytest.mark.parametrize(("phase", "blood"), [("native", 40), ("late arterial", 290), ("portal venous", 155)])
def test_contrast_is_painted_into_the_labelled_organs_of_a_ct_without_it(phase: str, blood: float) -> None:
    from prompt_sets import _enhanced

    grid = Geometry((12, 12, 12), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:10, 2:10, 2:10] = 8
    image = Volume(np.full((12, 12, 12), 40.0, np.float32), grid, grid)
    found = _enhanced(image, Volume(labels, grid, grid), phase).array  # type: ignore[arg-type]
    assert found[6, 6, 6] == pytest.approx(blood, abs=1)
    assert found[0, 0, 0] == pytest.approx(40, abs=1)


def test_atlases_of_other_cts_or_settings_are_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "set", "a", "b", "c")
    first = made_from(tasks_of("set", folder))
    assert made_from(tasks_of("set", folder)) == first
    (folder / "labels" / "b.nii.gz").write_bytes(b"another")
    second = made_from(tasks_of("set", folder))
    config = registration_config().model_copy(update={"spacing": 7.0})
    monkeypatch.setattr("leave_one_out.registration_config", lambda: config)
    assert len({first, second, made_from(tasks_of("set", folder))}) == 3
