"""Matches are mutual, of one class, and near if asked; weights find outliers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medsam2_atlas.registration.keypoints.bundle import Bundle
from medsam2_atlas.registration.keypoints.keypoint import Keypoints
from medsam2_atlas.registration.keypoints.matching import Matches, match
from medsam2_atlas.registration.keypoints.weights import fit_mixture
from registration.keypoints.scenes import CONFIG, images_of, random_points


def noisy(points: Keypoints, seed: int) -> Keypoints:
    noise = np.random.default_rng(seed).normal(0, 20, points.descriptors.shape)
    return replace(points, descriptors=np.clip(points.descriptors + noise, -127, 127).astype(np.int8))


def test_matches_are_mutual_and_the_same_in_both_directions() -> None:
    (image,) = images_of([random_points(80, 0)])
    other = noisy(image, 1)
    order = np.random.default_rng(2).permutation(80)
    other = Keypoints(other.points[order], other.scales[order], other.descriptors[order], other.bright[order])
    a, b = match(image, other, CONFIG)
    back_b, back_a = match(other, image, CONFIG)
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == set(zip(back_a.tolist(), back_b.tolist(), strict=True))
    assert len(set(b.tolist())) == len(b)
    assert np.mean(order[b] == a) > 0.9
    assert (image.bright[a] == other.bright[b]).all()


def test_points_without_a_similar_one_stay_unmatched() -> None:
    (image,), (stranger,) = images_of([random_points(40, 0)], seed=1), images_of([random_points(40, 0)], seed=2)
    assert len(match(image, stranger, CONFIG)[0]) < len(match(image, image, CONFIG)[0]) == 40
    strict = CONFIG.model_copy(update={"max_distance": 0.05})
    assert len(match(image, stranger, strict)[0]) == 0


def test_two_equally_similar_points_are_no_clear_match() -> None:
    (image,) = images_of([random_points(10, 0)])
    twice = Keypoints(*(np.concatenate([v, v]) for v in (image.points, image.scales, image.descriptors, image.bright)))
    assert len(match(image, twice, CONFIG)[0]) == 10
    assert len(match(image, twice, CONFIG.model_copy(update={"ratio": 0.9}))[0]) == 0


def test_far_points_are_not_matched_if_a_distance_is_given() -> None:
    (image,) = images_of([random_points(60, 0)])
    far = replace(image, points=image.points + np.where(np.arange(60) < 20, 100, 5)[:, None].astype(np.float32))
    a, _ = match(image, far, CONFIG, near=50)
    assert a.tolist() == list(range(20, 60))


@pytest.mark.parametrize("nothing", [slice(0, 0)])
def test_an_image_without_points_matches_nothing(nothing: slice) -> None:
    (image,) = images_of([random_points(10, 0)])
    none = Keypoints(image.points[nothing], image.scales[nothing], image.descriptors[nothing], image.bright[nothing])
    assert len(match(image, none, CONFIG)[0]) == len(match(none, image, CONFIG)[0]) == 0


def test_the_mixture_finds_the_share_and_the_scale_of_inliers() -> None:
    generator = np.random.default_rng(5)
    inside = np.linalg.norm(generator.normal(0, 6, (700, 3)), axis=1)
    outside = np.linalg.norm(generator.normal(0, 120, (300, 3)), axis=1)
    found = fit_mixture(np.concatenate([inside, outside]), 120, CONFIG)
    assert found.share == pytest.approx(0.7, abs=0.03)
    assert found.scale == pytest.approx(6, rel=0.05)
    assert found.inlier(inside).mean() > 0.95
    assert found.inlier(outside).mean() < 0.1


def test_a_match_has_the_product_of_both_images_probabilities_and_outliers_lose_their_weight() -> None:
    points = random_points(200, 0)
    images = images_of([points, points + np.random.default_rng(1).normal(0, 4, points.shape), points], outliers=0.3)
    pairs = [Matches(i, j, np.arange(200), np.arange(200)) for i, j in ((0, 1), (0, 2), (1, 2))]
    bundle = Bundle([image.points for image in images], pairs, (0, 1, 2), CONFIG)
    bundle.weigh(hard=False)
    distances = bundle.distances()
    assert (bundle.weights[distances > 60] < 0.01).all()
    assert bundle.weights[distances < 5].mean() > 0.9
    bundle.weigh()
    kept = bundle.weights > 0
    assert (bundle.weights[kept] >= CONFIG.min_weight).all()
    assert bundle.counts().sum() == 2 * kept.sum() == 2 * bundle.count
