"""Label fusion in the common space, and the thresholds found for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medsam2_atlas.atlas import Atlas, Reference
from medsam2_atlas.atlas.atlas import ProbabilityMap
from medsam2_atlas.atlas.reference import NO_VOXEL, OrganShare
from medsam2_atlas.base.errors import AtlasError, InputError
from medsam2_atlas.cli import app
from medsam2_atlas.evaluation import dice_per_organ, mean_dice
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.registration import RegistrationCache, Transform, WorkImage
from medsam2_atlas.scoremaps import (
    FusionConfig,
    VoteConfig,
    find_thresholds,
    fusion_config,
    score_maps,
    thresholds_of,
    with_thresholds,
)
from medsam2_atlas.scoremaps.alignment import Alignment
from medsam2_atlas.scoremaps.voting import vote, vote_on
from medsam2_atlas.segmenters.fusion import fuse_scores

SIDE = 16
LIVER = 6
GRID = Geometry((SIDE, SIDE, SIDE), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))


def block(start: int) -> np.ndarray:
    """Returns a liver that begins at `start` and is 6 voxels long along x, in the middle of the common space."""
    mask = np.zeros((SIDE, SIDE, SIDE), bool)
    mask[5:11, 5:11, start : start + 6] = True
    return mask


def reference(name: str, start: int, covered: np.ndarray | None = None) -> Reference:
    mask = block(start)
    seen = np.ones(mask.shape, bool) if covered is None else covered
    picture = np.where(mask, 100, -100).astype(np.int16)
    picture[~seen] = NO_VOXEL
    share = OrganShare((255 * (mask & seen)).astype(np.uint8), (0, 0, 0))
    small = np.zeros((1, 1, 1), np.int16)
    return Reference(name, name, (LIVER,), Transform(), {LIVER: share}, np.packbits(seen), picture, small)


def small_atlas(*references: Reference) -> Atlas:
    """Returns an atlas of references whose pictures and label maps share one grid of 3 mm."""
    blank = torch.zeros(SIDE, SIDE, SIDE)
    template = WorkImage(blank, blank > -1, torch.zeros(3), 3.0)
    maps = {LIVER: ProbabilityMap(np.zeros((SIDE,) * 3, np.uint8), np.zeros(3, np.float32), len(references))}
    return Atlas(template, maps, references)


MEAN = FusionConfig.model_validate({"vote": {"method": "mean"}})
PUBLISHED = MEAN.as_registered()


def voted(atlas: Atlas, start: int, **options: object) -> np.ndarray:
    """Returns the references' votes, 0..1, for a target whose liver begins at `start`."""
    hu = torch.from_numpy(np.where(block(start), 100.0, -100.0).astype(np.float32))
    config = VoteConfig(**options)  # type: ignore[arg-type]
    maps, _ = vote_on(hu, hu > -1e4, atlas.references, atlas, config)
    return maps[LIVER].values / 255


@pytest.mark.parametrize("method", ["local", "joint"])
def test_references_that_resemble_the_target_locally_outvote_the_others_there(method: str) -> None:
    atlas = small_atlas(reference("alike", 5), reference("other", 9), reference("other too", 9))
    truth = block(5)
    mean, weighted = voted(atlas, 5, method="mean"), voted(atlas, 5, method=method)
    assert mean[truth & ~block(9)].max() == pytest.approx(1 / 3, abs=0.01)
    assert weighted[truth].min() > 0.9
    assert weighted[~truth].max() < 0.1


def test_joint_fusion_does_not_let_twins_count_twice() -> None:
    """Two references with the same errors have about the weight of one of them."""
    pair = voted(small_atlas(reference("a", 4), reference("b", 7)), 5, method="joint", beta=1.0, ridge=0.01)
    twins = voted(
        small_atlas(reference("a", 4), reference("b", 7), reference("b2", 7)), 5, method="joint", beta=1.0, ridge=0.01
    )
    assert np.abs(pair - twins).max() < 0.2
    mean = voted(small_atlas(reference("a", 4), reference("b", 7), reference("b2", 7)), 5, method="mean")
    assert mean[8, 8, 4] == pytest.approx(1 / 3, abs=0.01)
    assert twins[8, 8, 4] > 0.4


@pytest.mark.parametrize("method", ["mean", "local", "joint"])
def test_a_reference_does_not_vote_outside_its_field_of_view(method: str) -> None:
    lower = np.zeros((SIDE,) * 3, bool)
    lower[:8] = True
    values = voted(small_atlas(reference("whole", 5), reference("cut", 5, lower)), 5, method=method)
    assert values[block(5)].min() > 0.95


def test_the_published_mean_counts_all_references_at_each_voxel() -> None:
    """With thresholds above a half, a region therefore ends where half of the references end, as in the published method."""
    lower = np.zeros((SIDE,) * 3, bool)
    lower[:8] = True
    atlas = small_atlas(reference("whole", 5), reference("cut", 5, lower), reference("also cut", 5, lower))
    blank = WorkImage(torch.zeros(SIDE, SIDE, SIDE), torch.ones(SIDE, SIDE, SIDE).bool(), torch.zeros(3), 3.0)
    image = Volume(np.zeros((SIDE,) * 3, np.float32), GRID, GRID)
    alignment = Alignment(image, blank, atlas, Transform(), Transform())
    found = vote(alignment, VoteConfig.model_validate({"method": "mean", "unseen": "absent"})).maps[LIVER].values / 255
    assert found[block(5) & lower].min() == 1
    assert np.unique(found[block(5) & ~lower]).tolist() == [pytest.approx(1 / 3)]
    known = vote(alignment, VoteConfig.model_validate({"method": "mean"}))
    assert known.maps is atlas.maps


def test_on_an_unseen_patient_voting_beats_the_mean_and_correction_beats_voting(
    target: Volume, target_truth: Volume, atlas: Atlas, registrations: RegistrationCache
) -> None:
    voted = PUBLISHED.with_method("local")
    reached = []
    for way in (PUBLISHED, voted, fusion_config()):
        labels = fuse_scores(score_maps(target, atlas, cache=registrations, fusion=way))
        reached.append(mean_dice(dice_per_organ(labels, target_truth.array, range(1, 16))))
    assert reached[0] < reached[1] < reached[2] - 0.02, reached


def test_thresholds_are_found_by_leaving_references_out_and_stored_with_the_atlas(tmp_path: Path) -> None:
    """Several thresholds find the box equally well; the middle one of them is chosen."""
    atlas = small_atlas(reference("a", 5), reference("b", 5), reference("c", 5), reference("d", 8))
    found = find_thresholds(atlas, PUBLISHED)
    # Without a, b or c, two references vote for 5 and one for 8. Without d, all three vote for 5.
    assert 0.35 <= found.values[LIVER] <= 0.65
    assert found.references == 4
    with_thresholds(atlas, found).save(tmp_path / "atlas")
    loaded = Atlas.load(tmp_path / "atlas")
    assert thresholds_of(loaded, PUBLISHED) == found.values
    assert thresholds_of(loaded, PUBLISHED.with_method("local")) == {}
    counting_all = FusionConfig.model_validate({"vote": {"method": "mean", "unseen": "absent"}}).as_registered()
    assert thresholds_of(loaded, counting_all) == {}
    assert thresholds_of(with_thresholds(atlas, find_thresholds(atlas, counting_all)), counting_all) == found.values
    assert thresholds_of(loaded, MEAN) == {}  # for maps that intensities correct
    assert loaded.version != atlas.version
    with pytest.raises(AtlasError, match="2 references"):
        find_thresholds(small_atlas(reference("a", 5), reference("b", 5)), MEAN)


def test_the_command_stores_thresholds_with_the_atlas(tmp_path: Path) -> None:
    small_atlas(reference("a", 5), reference("b", 5), reference("c", 6)).save(tmp_path / "atlas")
    done = CliRunner().invoke(app, ["thresholds", str(tmp_path / "atlas"), "--fusion", "mean"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "Liver" in done.output
    assert LIVER in thresholds_of(Atlas.load(tmp_path / "atlas"), MEAN)


def test_a_wrong_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("method: majority\n")
    with pytest.raises(InputError, match="fusion"):
        fusion_config(tmp_path / "f.yaml")
