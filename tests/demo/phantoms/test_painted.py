"""CTs painted over label maps."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.demo.phantoms import deformed, painted
from medsam2_atlas.imaging.volume import Volume


def test_organs_have_their_own_intensities_in_a_body(target_truth: Volume) -> None:
    labels = deformed(target_truth, np.random.default_rng(4), 0.0, 0.0)
    image = painted(labels, np.random.default_rng(4))
    assert image.geometry == labels.geometry
    for k, low, high in ((6, 40, 130), (1, 30, 140), (8, 25, 310), (14, -25, 45)):
        assert low < np.median(image.array[labels.array == k]) < high
    middle = image.array[len(image.array) // 2]
    assert (middle > 200).any()  # bones
    assert (middle[0] < -900).all() or (middle[:, 0] < -900).all()  # air around
    again = painted(labels, np.random.default_rng(4))
    assert (again.array == image.array).all()


def test_the_same_body_can_be_painted_in_each_contrast_phase(target_truth: Volume) -> None:
    labels = deformed(target_truth, np.random.default_rng(4), 0.0, 0.0)
    native, arterial = (painted(labels, np.random.default_rng(4), phase).array for phase in ("native", "late arterial"))
    aorta, outside = labels.array == 8, native < -900
    assert np.median(native[aorta]) < 70
    assert np.median(arterial[aorta]) > 240
    assert np.abs(native[outside] - arterial[outside]).max() < 60


def test_a_deformed_label_map_is_another_body(target_truth: Volume) -> None:
    plain = deformed(target_truth, np.random.default_rng(1), 0.0, 0.0)
    bent = deformed(target_truth, np.random.default_rng(1))
    assert set(np.unique(bent.array)) <= set(np.unique(plain.array))
    for k in (6, 1, 2):
        a, b = plain.array == k, bent.array == k
        assert 0.4 < b.sum() / a.sum() < 2.2
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) < 0.95
    assert plain.geometry.spacing == (3.0, 3.0, 3.0)


def test_the_spine_lies_behind_the_aorta_of_a_bent_body(target_truth: Volume) -> None:
    labels = deformed(target_truth, np.random.default_rng(6), amplitude=14.0)
    image = painted(labels, np.random.default_rng(6)).array
    offsets = []
    for z in np.flatnonzero((labels.array == 8).any((1, 2))):
        rows, columns = np.nonzero(labels.array[z] == 8)
        row = int(rows.max())
        behind = image[z, row + 5 : row + 20] > 180  # 15 to 60 mm behind it
        if behind.any():
            offsets.append(float(np.nonzero(behind)[1].mean() - columns.mean()) * 3)
    assert len(offsets) > 20
    assert np.median(np.abs(offsets)) < 25  # a usual distance of the aorta from the centre of a vertebra


def test_too_few_organs_are_refused(target_truth: Volume) -> None:
    alone = target_truth.with_array(np.where(target_truth.array == 6, 6, 0).astype(np.uint8))
    with pytest.raises(InputError, match="contains 1 organs"):
        painted(deformed(alone, np.random.default_rng(1)), np.random.default_rng(1))
