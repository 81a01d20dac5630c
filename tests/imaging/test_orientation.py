"""Turning arrays to the axis order of a file or of another orientation, and back."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.imaging.orientation import AS_FILED, turn_to
from medsam2_atlas.imaging.volume import from_sitk, to_sitk

ANGLE = np.radians(20)
TILT = np.array([[1, 0, 0], [0, np.cos(ANGLE), -np.sin(ANGLE)], [0, np.sin(ANGLE), np.cos(ANGLE)]])


def image_of(code: str, oblique: bool) -> sitk.Image:
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.9, 5.0))
    image.SetOrigin((3.0, -20.0, 11.0))
    if oblique:
        image.SetDirection(TILT.ravel().tolist())
    turned = sitk.DICOMOrient(image, code)
    return to_sitk(sitk.GetArrayFromImage(turned), from_sitk(turned).file_geometry)


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("filed", ["LPS", "RAS", "LAS", "PIR", "SLA", "ARI"])
def test_the_order_of_the_file_gives_the_array_in_the_file(filed: str, oblique: bool) -> None:
    image = image_of(filed, oblique)
    volume = from_sitk(image)
    turn = turn_to(volume, AS_FILED)
    assert turn.code == filed
    assert np.array_equal(turn.apply(volume.array), sitk.GetArrayFromImage(image))
    assert np.array_equal(turn.undo(turn.apply(volume.array)), volume.array)
    assert turn.spacing(volume.geometry) == image.GetSpacing()[::-1]


@pytest.mark.parametrize("code", ["LPS", "RAS", "RPI", "AIL", "IRP"])
@pytest.mark.parametrize("filed", ["LPS", "PIR"])
def test_orientations_are_the_same_as_simpleitks(filed: str, code: str) -> None:
    image = image_of(filed, True)
    volume, expected = from_sitk(image), sitk.DICOMOrient(image, code)
    turn = turn_to(volume, code)
    assert np.array_equal(turn.apply(volume.array), sitk.GetArrayFromImage(expected))
    assert np.array_equal(turn.undo(turn.apply(volume.array)), volume.array)
    assert turn.spacing(volume.geometry) == expected.GetSpacing()[::-1]
