"""Interest points are found at blobs, and described by their surroundings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam2_atlas.registration import WorkImage
from medsam2_atlas.registration.keypoints.detect import keypoints_of
from medsam2_atlas.registration.keypoints.keypoint import STEPS_PER_UNIT, Keypoints, Landmarks
from registration.keypoints.scenes import CONFIG, SPACING, body_with

CENTRES = [(91.3, 92.9, 81.7), (150.6, 120.2, 131.1), (110.0, 161.4, 170.9)]


def nearest(points: Keypoints, centre: tuple[float, float, float]) -> int:
    return int(np.linalg.norm(points.points - np.array(centre), axis=1).argmin())


@pytest.mark.parametrize("size", [8.0, 11.0])
def test_blobs_are_found_to_a_fraction_of_a_voxel_at_their_scale(size: float) -> None:
    found = keypoints_of(body_with([(centre, size, 300.0) for centre in CENTRES]), CONFIG)
    for centre in CENTRES:
        best = nearest(found, centre)
        assert np.linalg.norm(found.points[best] - centre) < 0.2 * SPACING
        # For a Gaussian blob of size s, the determinant is proportional to σ⁶ / (s² + σ²)^7.5, which is largest at σ² = 2/3 s².
        assert found.scales[best] == pytest.approx(np.sqrt(2 / 3) * size, rel=0.15)
        assert found.bright[best]


def test_a_dark_blob_is_of_the_other_class() -> None:
    found = keypoints_of(body_with([(CENTRES[0], 8.0, -150.0), (CENTRES[1], 8.0, 150.0)]), CONFIG)
    assert [bool(found.bright[nearest(found, centre)]) for centre in CENTRES[:2]] == [False, True]


def test_descriptors_hardly_change_with_little_noise_and_tell_blobs_apart() -> None:
    scene = [
        (CENTRES[0], 8.0, 250.0),
        (CENTRES[1], 8.0, 250.0),
        ((110.0, 92.0, 82.0), 9.0, 150.0),
        ((150.0, 140.0, 120.0), 9.0, -90.0),
    ]
    image = body_with(scene)
    clean = keypoints_of(image, CONFIG)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(image.shape, generator=generator) * 10
    noisy = keypoints_of(WorkImage(image.hu + noise, image.valid, image.origin, SPACING), CONFIG)

    def descriptor(points: Keypoints, centre: tuple[float, float, float]) -> np.ndarray:
        values: np.ndarray = points.descriptors[nearest(points, centre)].astype(float) / STEPS_PER_UNIT
        return values

    same = [np.linalg.norm(descriptor(clean, centre) - descriptor(noisy, centre)) for centre in CENTRES[:2]]
    apart = np.linalg.norm(descriptor(clean, CENTRES[0]) - descriptor(clean, CENTRES[1]))
    assert max(same) < 0.25 * apart
    assert np.linalg.norm(descriptor(clean, CENTRES[0])) == pytest.approx(1, abs=0.02)


def test_points_lie_inside_the_body_and_away_from_the_scan_s_ends() -> None:
    image = body_with([((110.0, 110.0, z), 8.0, 300.0) for z in (30.0, 128.0, 226.0)])
    found = keypoints_of(image, CONFIG)
    z = found.points[:, 2] - float(image.origin[2])
    assert z.min() >= CONFIG.scales[1] * 0.9
    assert z.max() <= (image.shape[0] - 1) * SPACING - CONFIG.scales[1] * 0.9
    index = np.rint((found.points - image.origin.numpy()) / SPACING).astype(int)
    assert image.body.numpy()[tuple(index.T[::-1])].all()


def test_a_constant_image_has_no_keypoints() -> None:
    for hu in (0.0, -1000.0):
        flat = torch.full((20, 20, 20), hu)
        found = keypoints_of(WorkImage(flat, flat > -2000, torch.zeros(3), SPACING), CONFIG)
        assert len(found) == 0
        assert found.descriptors.shape == (0, 6 * CONFIG.cells**3)
        assert Landmarks.of([found, None]) is None


def test_keypoints_are_deterministic_and_the_strongest_are_kept() -> None:
    image = body_with([(centre, 8.0, height) for centre, height in zip(CENTRES, (300.0, 200.0, 100.0), strict=True)])
    first, again = keypoints_of(image, CONFIG), keypoints_of(image, CONFIG)
    for name in ("points", "scales", "descriptors", "bright"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    few = keypoints_of(image, CONFIG.model_copy(update={"max_points": 10}))
    assert np.array_equal(few.points, first.points[:10])


def test_landmarks_are_stored_and_read() -> None:
    found = keypoints_of(body_with([(centre, 8.0, 300.0) for centre in CENTRES]), CONFIG)
    moved = found.moved(lambda points: points + 5)
    both = Landmarks.of([found, moved])
    assert both is not None
    again = Landmarks.from_arrays(both.arrays())
    assert again is not None
    assert [len(image) for image in again.images] == [len(found), len(found)]
    assert np.array_equal(again.images[1].points, moved.points)
    assert Landmarks.from_arrays({}) is None
