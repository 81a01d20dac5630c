"""The target's intensities correct score maps where they are informative, and only there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.registration import Transform
from medsam2_atlas.scoremaps import (
    BendConfig,
    CorrectConfig,
    HistogramConfig,
    Intensities,
    ScoreMap,
    ScoreMaps,
    correct,
    warp_jointly,
)

CONFIG = CorrectConfig.model_validate({})
BEND, UNBENT = BendConfig.model_validate({}), BendConfig.model_validate({"rounds": 0})
SHAPE = (40, 50, 60)
GRID = Geometry(SHAPE[::-1], (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
EVERYWHERE = CroppedMap(np.full(SHAPE, 255, np.uint8), (0, 0, 0))


def ball(z: float, y: float, x: float, radius: float) -> np.ndarray:
    grid = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    found: np.ndarray = sum((g - c) ** 2 for g, c in zip(grid, (z, y, x), strict=True)) <= radius**2
    return found


def ct(*parts: tuple[np.ndarray, float]) -> Volume:
    array = np.random.default_rng(3).normal(40, 8, SHAPE)
    for mask, hu in parts:
        array[mask] += hu - 40
    return Volume(array.astype(np.float32), GRID, GRID)


def maps_of(**masks: np.ndarray) -> ScoreMaps:
    scores = {int(k[1:]): ScoreMap((m * 255).astype(np.uint8), (0, 0, 0), 1.0) for k, m in masks.items()}
    return ScoreMaps(scores, GRID, 1, Transform(()), Transform(()))


def intensities(target: Volume, scores: ScoreMaps, pairs: Sequence[tuple[int, int]] = ()) -> Intensities:
    return Intensities.of(target, scores, pairs, HistogramConfig.model_validate({}))


def corrected(
    scores: ScoreMaps,
    target: Volume,
    known: CroppedMap,
    config: CorrectConfig = CONFIG,
    pairs: Sequence[tuple[int, int]] = (),
    bend: BendConfig = BEND,
) -> ScoreMaps:
    """Runs both steps that use the target's intensities."""
    seen = intensities(target, scores, pairs)
    return correct(*warp_jointly(scores, known, seen, bend), seen, config)


def mask_of(scores: ScoreMaps, organ: int) -> np.ndarray:
    return np.stack([scores.plane(organ, z) > 0.5 for z in range(SHAPE[0])])


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_map_beside_its_organ_moves_to_it() -> None:
    truth, guess = ball(20, 25, 30, 10), ball(20, 25, 34, 10)
    near, far = (
        corrected(maps_of(k6=guess), ct((truth, 110)), EVERYWHERE, CONFIG.model_copy(update={"spread": spread}))
        for spread in (3.0, 5.0)
    )
    assert dice(guess, truth) < 0.75
    assert dice(mask_of(near, 6), truth) > 0.9
    assert dice(mask_of(far, 6), truth) > 0.95  # a larger `spread` searches further


def test_maps_that_are_shifted_together_are_bent_back_together() -> None:
    first, second = ball(20, 25, 20, 8), ball(20, 25, 42, 8)
    registered = maps_of(k6=np.roll(first, 8, 1), k1=np.roll(second, 8, 1))  # 16 mm
    target = ct((first, 110), (second, 150))
    found, _ = warp_jointly(registered, EVERYWHERE, intensities(target, registered), BEND)
    for organ, truth in ((6, first), (1, second)):
        assert dice(mask_of(registered, organ), truth) < 0.4
        assert dice(mask_of(found, organ), truth) > 0.8
        assert dice(mask_of(corrected(registered, target, EVERYWHERE, CONFIG), organ), truth) > 0.9


def test_bending_moves_the_field_of_view_with_the_maps() -> None:
    seen = np.zeros(SHAPE, bool)
    seen[:, :, 20:] = True
    known = replace(EVERYWHERE, values=(seen * 255).astype(np.uint8))
    truth = ball(20, 25, 36, 10)
    registered = maps_of(k6=np.roll(truth, -5, 2))
    target = ct((truth, 110))
    found, moved = warp_jointly(registered, known, intensities(target, registered), BEND)
    assert dice(mask_of(found, 6), truth) > 0.85
    assert 1 <= moved.lower[2] - 20 <= 6  # the border of the field of view has moved too
    box = (slice(0, SHAPE[0]), slice(0, SHAPE[1]), slice(30, 50))
    assert (moved.probabilities(box) > 0.5).all()  # outside the scan, the values of its border hold


def test_maps_in_an_image_without_contrast_are_hardly_bent() -> None:
    registered = maps_of(k6=ball(20, 25, 34, 10))
    found, _ = warp_jointly(registered, EVERYWHERE, intensities(ct(), registered), BEND)
    assert dice(mask_of(found, 6), ball(20, 25, 34, 10)) > 0.85


def test_an_organ_that_looks_like_its_surroundings_stays_as_registered() -> None:
    guess = ball(20, 25, 34, 10)
    found = corrected(maps_of(k6=guess), ct(), EVERYWHERE, CONFIG)
    assert dice(mask_of(found, 6), guess) > 0.85


def test_two_touching_organs_that_look_alike_keep_their_voxels() -> None:
    left, right = ball(20, 25, 20, 9), ball(20, 25, 38, 9)
    found = corrected(maps_of(k6=left, k1=right), ct((left | right, 110)), EVERYWHERE, CONFIG)
    assert dice(mask_of(found, 6), left) > 0.9
    assert dice(mask_of(found, 1), right) > 0.9
    assert not (mask_of(found, 6) & mask_of(found, 1)).any()


def test_an_organ_within_a_larger_one_of_the_same_brightness_keeps_its_position() -> None:
    vein = np.zeros(SHAPE, bool)
    vein[4:36, 23:28, 28:33] = True
    liver = ball(20, 25, 30, 14) & ~vein
    registered = maps_of(k6=np.where(vein, 0.1, liver * 0.9), k9=vein * 0.9)
    found = corrected(registered, ct((liver | vein, 110)), EVERYWHERE, CONFIG)
    assert dice(mask_of(found, 9), vein) > 0.7
    assert dice(mask_of(found, 6), liver) > 0.95


def test_a_kidney_registered_to_the_spleen_is_corrected_by_the_other_kidney() -> None:
    right, left, spleen = ball(20, 25, 10, 6), ball(20, 25, 34, 6), ball(20, 25, 48, 8)
    registered = maps_of(k2=right, k3=np.roll(left, 10, 2) & spleen, k1=np.roll(spleen, 6, 2) & spleen)
    target = ct((right | left, 180), (spleen, 110))
    alone, paired = (mask_of(corrected(registered, target, EVERYWHERE, CONFIG, pairs), 3) for pairs in ((), [(3, 2)]))
    assert dice(alone, left) < 0.2
    assert dice(paired, left) > 0.8


def test_an_organ_that_falls_into_two_pieces_keeps_both() -> None:
    upper, lower = ball(12, 25, 30, 6), ball(28, 25, 30, 6)
    found = corrected(maps_of(k10=np.roll(upper | lower, 2, 2)), ct((upper | lower, 110)), EVERYWHERE, CONFIG)
    assert dice(mask_of(found, 10), upper | lower) > 0.95


def test_another_structure_of_the_same_brightness_is_excluded() -> None:
    truth, other = ball(20, 25, 20, 8), ball(20, 25, 44, 8)
    found = corrected(maps_of(k6=np.maximum(truth * 0.9, other * 0.4)), ct((truth | other, 110)), EVERYWHERE, CONFIG)
    assert dice(mask_of(found, 6), truth) > 0.9
    assert not (mask_of(found, 6) & other).any()


def test_an_organ_partially_imaged_in_all_references_is_followed_beyond_their_fields_of_view() -> None:
    truth = ball(20, 25, 30, 14)
    seen = np.zeros(SHAPE, bool)
    seen[:20] = True
    known = replace(EVERYWHERE, values=(seen * 255).astype(np.uint8))
    registered = maps_of(k6=truth & seen)
    assert dice(mask_of(corrected(registered, ct((truth, 110)), EVERYWHERE, bend=UNBENT), 6), truth) < 0.8
    assert dice(mask_of(corrected(registered, ct((truth, 110)), known, bend=UNBENT), 6), truth) > 0.93


def test_a_partially_imaged_organ_is_followed_below_its_cut() -> None:
    truth, tip = ball(26, 25, 30, 10), np.zeros(SHAPE, bool)
    tip[4:26, 20:30, 34:44] = True
    truth |= tip
    seen = np.zeros(SHAPE, bool)
    seen[:, :, :30] = True  # a crop around the spine shows no part of the tip
    known = replace(EVERYWHERE, values=(seen * 255).astype(np.uint8))
    found = mask_of(corrected(maps_of(k6=truth & seen), ct((truth, 110)), known, CONFIG), 6)
    assert found[4:16][tip[4:16]].mean() > 0.8
    assert dice(found, truth) > 0.9


def test_a_small_end_of_a_vessel_stays_and_a_piece_beside_the_vessel_is_removed() -> None:
    vessel = np.zeros(SHAPE, bool)
    vessel[14:36, 22:29, 27:34] = True
    end, beside = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    end[5:10, 23:28, 28:33] = True
    beside[20:25, 23:28, 12:17] = True
    registered = maps_of(k9=0.9 * vessel + 0.7 * (end | beside))
    found = mask_of(corrected(registered, ct((vessel | end | beside, 110)), EVERYWHERE, CONFIG), 9)
    assert found[end].mean() > 0.8
    assert not found[beside].any()


def test_zero_rounds_leave_the_published_maps() -> None:
    registered = maps_of(k6=ball(20, 25, 30, 10) * 0.7)
    found = corrected(registered, ct(), EVERYWHERE, CONFIG.model_copy(update={"rounds": 0}), bend=UNBENT)
    assert found is registered


@pytest.mark.parametrize("spacing", [0.8, 0.5])
def test_fine_pixels_are_averaged_on_the_reduced_grid(spacing: float) -> None:
    stride = int(2.0 / spacing)
    rows, columns = 50 * stride - 1, 60 * stride  # the last row of blocks is not whole
    fine = np.repeat(np.repeat(ball(20, 25, 30, 10), stride, 1), stride, 2)[:, :rows]
    grid = Geometry((columns, rows, 40), (spacing, spacing, 2.0), (0.0, 0.0, 0.0))
    image = Volume(np.where(fine, 110, 40).astype(np.float32), grid, grid)
    score = ScoreMap((ball(20, 25, 33, 10) * 255).astype(np.uint8), (0, 0, 0), 1.0)
    registered = ScoreMaps({6: score}, grid, stride, Transform(()), Transform(()))
    found = corrected(registered, image, EVERYWHERE, CONFIG)
    reached = np.stack([found.reduced_plane(6, z) > 0.5 for z in range(40)])
    assert dice(reached, ball(20, 25, 30, 10)) > 0.93
