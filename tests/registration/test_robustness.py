"""Disturbed CTs (shifted, rotated, cut, prone …): prompts stay on the organs, or are missing with a reason."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk

from blocks import COARSE
from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.evaluation import PromptError, dice_per_organ, mean_dice, prompt_errors
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, from_sitk
from medsam2_atlas.prompting import prompting_config, prompts_from_scores
from medsam2_atlas.registration import RegistrationCache, WorkImage
from medsam2_atlas.scoremaps import score_maps
from medsam2_atlas.segmenters.fusion import fuse_scores

AIR = -1000.0
WORSE, MIN_MM = 1.5, 3.0
"""The max factor by which a disturbance may increase the mean centre error, and the min error that counts, in mm."""


def errors(atlas: Atlas, image: Volume, truth: Volume, cache: RegistrationCache | None = None) -> dict[int, PromptError | None]:
    table = organ_table()
    # The stages before the deformable one correct these disturbances, so a coarse grid suffices and saves time.
    prompts = prompts_from_scores(
        score_maps(image, atlas, config=COARSE, cache=cache), table, table.indices, prompting_config().three_boxes
    )
    assert all(prompts.missing.get(k) or any(p.label == k for p in prompts.prompts) for k in table.indices)
    return prompt_errors(prompts, truth, table.indices)


@pytest.fixture(scope="module")
def undisturbed(
    atlas: Atlas, target: Volume, target_truth: Volume, registrations: RegistrationCache
) -> dict[int, PromptError | None]:
    return errors(atlas, target, target_truth, registrations)


def resampled(volume: Volume, outside: float, transform: sitk.Transform | None = None, size_z: int = 0) -> Volume:
    """Resamples a volume after a transform of points, or with another number of slices."""
    image = volume.as_image()
    labels = volume.array.dtype == np.uint8
    size, spacing = list(image.GetSize()), list(image.GetSpacing())
    if size_z:
        spacing[2] *= size[2] / size_z
        size[2] = size_z
    return from_sitk(
        sitk.Resample(
            image, size, transform or sitk.Transform(), sitk.sitkNearestNeighbor if labels else sitk.sitkLinear,
            image.GetOrigin(), spacing, image.GetDirection(), outside,
        )
    )  # fmt: skip


def moved(millimetres: tuple[float, float, float]) -> Callable[[Volume, float], Volume]:
    """Returns a change that moves the body in the scanner. The field of view grows, so that nothing is cut."""

    def change(volume: Volume, outside: float) -> Volume:
        image = volume.as_image()
        voxels = [round(abs(v) / s) for v, s in zip(millimetres, image.GetSpacing(), strict=True)]
        low = [n if v > 0 else 0 for n, v in zip(voxels, millimetres, strict=True)]
        high = [0 if v > 0 else n for n, v in zip(voxels, millimetres, strict=True)]
        padded = sitk.ConstantPad(image, low, high, outside)
        padded.SetOrigin(image.GetOrigin())
        return from_sitk(padded)

    return change


def rotated(axis: tuple[float, float, float], degrees: float) -> Callable[[Volume, float], Volume]:
    def change(volume: Volume, outside: float) -> Volume:
        middle = volume.geometry.to_world((np.array(volume.geometry.size) - 1) / 2)
        return resampled(volume, outside, sitk.VersorTransform(axis, np.deg2rad(degrees), middle.tolist()))

    return change


def upper_half(volume: Volume, outside: float) -> Volume:
    image = volume.as_image()
    return from_sitk(image[:, :, image.GetSize()[2] // 2 :])


def with_thorax(volume: Volume, outside: float) -> Volume:
    """Adds 250 mm on top: copies of the last slice, with lungs."""
    more = round(250 / volume.geometry.spacing[2])
    image = sitk.ConstantPad(volume.as_image(), [0, 0, 0], [0, 0, more], outside)
    array = sitk.GetArrayFromImage(image)
    if volume.array.dtype != np.uint8:
        last = volume.array[-1].copy()
        columns = np.arange(last.shape[1]) - last.shape[1] / 2
        rows = np.arange(last.shape[0])[:, None] - last.shape[0] / 2
        for side in (-1, 1):
            lung = ((columns - side * last.shape[1] * 0.17) / (last.shape[1] * 0.11)) ** 2 + (rows / (last.shape[0] * 0.2)) ** 2
            last[lung < 1] = -850.0
        array[-more:] = last
    whole = sitk.GetImageFromArray(array)
    whole.CopyInformation(image)
    return from_sitk(whole)


def thick_slices(volume: Volume, outside: float) -> Volume:
    return resampled(volume, outside, size_z=round(volume.geometry.size[2] * volume.geometry.spacing[2] / 5.0))


def prone(volume: Volume, outside: float) -> Volume:
    """Turns the patient by half around the long axis; the file does not record it."""
    array = np.ascontiguousarray(volume.array[:, ::-1, ::-1])
    return Volume(array, volume.geometry, volume.geometry, volume.source)


DISTURBED: dict[str, Callable[[Volume, float], Volume]] = {
    "80 mm to the left": moved((80.0, 0.0, 0.0)),
    "80 mm up": moved((0.0, -80.0, 0.0)),
    "80 mm more below": moved((0.0, 0.0, 80.0)),
    "turned by 15 degrees around z": rotated((0.0, 0.0, 1.0), 15.0),
    "tilted by 15 degrees around x": rotated((1.0, 0.0, 0.0), 15.0),
    "upper half": upper_half,
    "with the thorax": with_thorax,
    "slices of 5 mm": thick_slices,
    "prone": prone,
}


@pytest.mark.parametrize("name", DISTURBED)
def test_prompts_stay_on_the_organs_of_disturbed_cts(
    name: str,
    atlas: Atlas,
    target: Volume,
    target_truth: Volume,
    undisturbed: dict[int, PromptError | None],
) -> None:
    change = DISTURBED[name]
    truth = change(target_truth, 0.0)
    found = errors(atlas, change(target, AIR), truth)
    if change is with_thorax:  # organs of the last slice continue in the image, but not in the labels
        found = {k: error for k, error in found.items() if not (target_truth.array[-1] == k).any()}
    prompted = [k for k, error in found.items() if error is not None and undisturbed.get(k) is not None]
    whole = [k for k in found if (truth.array == k).sum() * truth.geometry.voxel_ml > 0.8 * _ml(target_truth, k)]
    lost = [k for k in whole if found[k] is None and undisturbed.get(k) is not None]
    assert len(lost) <= 1, f"no prompt for {lost}, which are fully imaged"
    expected = float(np.mean([max(undisturbed[k].centre, MIN_MM) for k in prompted]))  # type: ignore[union-attr]
    reached = float(np.mean([found[k].centre for k in prompted]))  # type: ignore[union-attr]
    assert len(prompted) >= 0.8 * len(whole)
    assert reached <= WORSE * expected, f"{reached:.1f} mm, undisturbed {expected:.1f} mm"


@pytest.mark.parametrize("code", ["RAS", "ASR", "PIL"])
def test_the_orientation_of_the_file_makes_no_difference(
    code: str,
    atlas: Atlas,
    target: Volume,
    target_truth: Volume,
    undisturbed: dict[int, PromptError | None],
    registrations: RegistrationCache,
) -> None:
    """A stored registration is valid only for the same voxels and grid. Another order of voxels is registered again."""
    image = from_sitk(sitk.DICOMOrient(target.as_image(), code))
    assert image.file_geometry.direction != target.geometry.direction
    found = errors(atlas, image, target_truth, registrations)
    assert {k for k, e in found.items() if e} == {k for k, e in undisturbed.items() if e}
    for k, error in found.items():
        before = undisturbed[k]
        if error is not None and before is not None:
            assert error.centre == pytest.approx(before.centre, abs=1.0), k


def _ml(truth: Volume, k: int) -> float:
    return float((truth.array == k).sum() * truth.geometry.voxel_ml)


@pytest.mark.parametrize("step", [3.0, 6.0])
def test_a_slab_of_thirty_millimetres_is_registered(step: float, atlas: Atlas, target: Volume, target_truth: Volume) -> None:
    slices, every = slice(118, 128), round(step / 3.0)
    slab, truth = (from_sitk(volume.as_image()[:, :, slices][:, :, ::every]) for volume in (target, target_truth))
    assert len(slab.array) * slab.geometry.spacing[2] == pytest.approx(30)
    labels = fuse_scores(score_maps(slab, atlas))
    visible = [k for k in range(1, 16) if (truth.array == k).sum() * truth.geometry.voxel_ml > 5]
    assert len(visible) >= 4
    assert mean_dice(dice_per_organ(labels, truth.array, visible)) > 0.8


def test_two_thick_slices_are_refused(target: Volume) -> None:
    with pytest.raises(InputError, match="has only 2 slices along one axis"):
        WorkImage.of(from_sitk(target.as_image()[:, :, 118:128:5]), 3.0)
