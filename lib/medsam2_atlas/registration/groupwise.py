"""Builds a common space of several images: a mean image to which all of them are registered, refined in rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medsam2_atlas.base.mapping import KilledError, Map, in_turn
from medsam2_atlas.base.progress import Progress, doing, part, silent
from medsam2_atlas.registration.affine import refine_affine
from medsam2_atlas.registration.config import RegistrationConfig
from medsam2_atlas.registration.deformable import deform
from medsam2_atlas.registration.keypoints.detect import keypoints_of
from medsam2_atlas.registration.keypoints.group import FewMatchesError, register_group
from medsam2_atlas.registration.keypoints.keypoint import Keypoints
from medsam2_atlas.registration.keypoints.register import few_matches
from medsam2_atlas.registration.methods import BY_KEYPOINTS
from medsam2_atlas.registration.prealign import prealign
from medsam2_atlas.registration.register import register
from medsam2_atlas.registration.transform import Affine, Transform
from medsam2_atlas.registration.work_image import AIR, WorkImage


@dataclass(frozen=True)
class CommonSpace:
    """The common space of several images.

    Attributes:
        template: the mean image.
        transforms: the transform of each image, from the common space's world points to its own.
        keypoints: the keypoints of each image, moved to the common space.
    """

    template: WorkImage
    transforms: list[Transform]
    keypoints: list[Keypoints]


class UnregisteredError(Exception):
    """The error of an image that cannot be registered to the other images.

    Attributes:
        number: the index of the image.
        reason: the error that the registration raised.
    """

    def __init__(self, number: int, reason: Exception) -> None:
        self.number, self.reason = number, reason
        super().__init__(f"image {number} cannot be registered: {reason}")


def build_common_space(
    images: Sequence[WorkImage], config: RegistrationConfig, progress: Progress = silent, mapped: Map = in_turn
) -> CommonSpace:
    """Registers images together, by `config.method`.

    `keypoints` registers the keypoints of all images at once, without a reference image; `both` continues with the deformable
    rounds of `dense`. All other methods work in rounds. The first template is the image of median girth among the long scans.
    The first round finds affine maps, which give the group's mean size and shape. Each later round registers every image
    deformably to the mean image of the previous round. At each voxel, the mean includes only the images whose field of view
    covers it.

    Args:
        images: at least one image, at a spacing of `config.spacing` or finer.
        config: the registration parameters; `group.rounds` counts the affine round and the deformable rounds. The mean image
            becomes sharper with each round, and later rounds fit it better.
        progress: called with the fraction completed.
        mapped: registers the images of a round, one after the other or at the same time.

    Raises:
        UnregisteredError: an image cannot be registered.
    """
    images = [image.at_spacing(config.spacing).with_config(config.image) for image in images]
    _shown("keypoints", 0, len(images))
    detected = dict[int, Keypoints]()
    for i, found in mapped(keypoints_of, [(image, config.keypoints) for image in images]):
        if isinstance(found, KilledError):
            raise UnregisteredError(i, found) from found
        detected[i] = found
        _shown("keypoints", len(detected), len(images))
    keypoints = [detected[i] for i in range(len(images))]
    if config.method in BY_KEYPOINTS:
        return _by_keypoints(images, keypoints, config, progress, mapped)
    template = _first_template(images, config.group.long_share)
    transforms = [Transform() for _ in images]
    rounds = config.group.rounds
    total = rounds * len(images)
    for turn in range(rounds):
        for i, image in enumerate(images):
            if image is template:
                transforms[i] = Transform((Affine(torch.eye(3), torch.zeros(3)),))
        others = [i for i, image in enumerate(images) if image is not template]
        _shown(f"round {turn + 1} of {rounds}", 0, len(others))
        register_one = _affine if turn == 0 else _registered
        for done, (n, found) in enumerate(mapped(register_one, [(template, images[i], config) for i in others]), 1):
            if isinstance(found, Exception):
                raise UnregisteredError(others[n], found) from found
            transforms[others[n]] = found
            _shown(f"round {turn + 1} of {rounds}", done, len(others))
            progress("common space", (turn * len(images) + len(images) - len(others) + done) / total)
        if turn == 0:
            transforms = _centred(transforms, template)
        if turn < rounds - 1 or rounds == 1:
            template = mean_image(images, transforms, template, config.group.min_coverage)
    return CommonSpace(template, transforms, _undone(keypoints, transforms))


def _shown(what: str, done: int, count: int) -> None:
    """Shows which image is registered; on a cluster, the number of the next one to end."""
    doing(f"{what}, image {min(done + 1, count)} of {count}" if count else what)


def _affine(template: WorkImage, image: WorkImage, config: RegistrationConfig) -> Transform | Exception:
    """Returns the affine transform of an image, or the error of its registration, which may run in another process."""
    try:
        return Transform((refine_affine(template, image, prealign(template, image, config), config),))
    except Exception as error:  # noqa: BLE001 - the caller raises it
        return error


def _registered(template: WorkImage, image: WorkImage, config: RegistrationConfig) -> Transform | Exception:
    """Returns the transform of an image, or the error of its registration."""
    try:
        return register(template, image, config)
    except Exception as error:  # noqa: BLE001 - the caller raises it
        return error


def _deformed(body: WorkImage, image: WorkImage, start: Transform, config: RegistrationConfig) -> Transform | Exception:
    """Returns the transform of an image from a start, or the error of its registration."""
    try:
        return deform(body, image, start, config)
    except Exception as error:  # noqa: BLE001 - the caller raises it
        return error


def _by_keypoints(
    images: Sequence[WorkImage], keypoints: Sequence[Keypoints], config: RegistrationConfig, progress: Progress, mapped: Map
) -> CommonSpace:
    """Registers the keypoints of images; with the method `both`, dense rounds follow, which start from their result."""
    dense = config.group.rounds - 1 if config.method == "both" else 0
    share = 1 / (1 + dense)
    try:
        halves = register_group(
            keypoints,
            [image.around_body().corners() for image in images],
            config.spacing,
            config.keypoints,
            part(progress, 0, 0.7 * share),
        )
    except FewMatchesError as error:
        raise UnregisteredError(error.number, few_matches(error, config)) from error
    starts = []
    for half in halves:
        starts.append(half.inverse())
        progress("common space", share * (0.7 + 0.3 * len(starts) / len(halves)))
    template = mean_image(images, starts, images[0], config.group.min_coverage)
    if dense == 0:
        moved = [points.moved(half) for points, half in zip(keypoints, halves, strict=True)]
        return CommonSpace(template, starts, moved)
    transforms = starts
    for turn in range(dense):
        transforms, body = list(starts), template.around_body()
        _shown(f"round {turn + 1} of {dense}", 0, len(images))
        begun = [(body, image, start, config) for image, start in zip(images, starts, strict=True)]
        for done, (i, found) in enumerate(mapped(_deformed, begun), 1):
            if isinstance(found, Exception):
                raise UnregisteredError(i, found) from found
            transforms[i] = found
            _shown(f"round {turn + 1} of {dense}", done, len(images))
            progress("common space", share * (1 + turn + done / len(images)))
        if turn < dense - 1:
            template = mean_image(images, transforms, template, config.group.min_coverage)
    return CommonSpace(template, transforms, _undone(keypoints, transforms))


def _undone(keypoints: Sequence[Keypoints], transforms: Sequence[Transform]) -> list[Keypoints]:
    """Moves the keypoints of each image to the common space."""
    return [points.moved(transform.undo) for points, transform in zip(keypoints, transforms, strict=True)]


def mean_image(images: Sequence[WorkImage], transforms: Sequence[Transform], grid: WorkImage, min_coverage: float) -> WorkImage:
    """Returns the mean of the warped images on a grid that contains all of them.

    At each voxel, the mean includes only the images that cover it.

    Args:
        images: at least one image.
        transforms: the transform of each image, from the grid's world points to its own.
        grid: the image whose spacing and position define the grid.
        min_coverage: the min share of the images that must cover a voxel.
    """
    grid = _enlarged(grid, images, transforms)
    points = grid.points()
    warped = (image.warped(transform(points)) for image, transform in zip(images, transforms, strict=True))
    return mean_of_warped(warped, grid, min_coverage).around_scan()


def mean_of_warped(images: Iterable[tuple[torch.Tensor, torch.Tensor]], grid: WorkImage, min_coverage: float) -> WorkImage:
    """Returns the mean of images that are already on one grid.

    Args:
        images: at least one pair of HU and validity (bool), each `[z, y, x]` on the grid.
        grid: the grid.
        min_coverage: the min share of the images that must cover a voxel.
    """
    total, count, number = torch.zeros(grid.shape), torch.zeros(grid.shape), 0
    for hu, valid in images:
        total += torch.where(valid, hu, 0.0)
        count += valid
        number += 1
    valid = count >= max(1.0, min_coverage * number)
    mean = torch.where(valid, total / count.clamp(min=1), AIR)
    return WorkImage(mean, valid, grid.origin, grid.spacing, config=grid.config)


def _first_template(images: Sequence[WorkImage], long_share: float) -> WorkImage:
    lengths = np.array([image.shape[0] * image.spacing for image in images])
    widths = np.array([float(image.body.float().sum()) / image.shape[0] for image in images])
    # Long scans show the most anatomy; among them, choose the one of median girth.
    long = np.flatnonzero(lengths >= long_share * lengths.max())
    return images[int(long[np.abs(widths[long] - np.median(widths[long])).argmin()])]


def _centred(transforms: list[Transform], template: WorkImage) -> list[Transform]:
    """Moves the template to the group's mean, so that the mean of the affine transforms becomes the identity."""
    maps = [step for transform in transforms for step in transform.maps if isinstance(step, Affine)]
    matrix = torch.stack([m.matrix for m in maps]).mean(0)
    middle = template.points().reshape(-1, 3).mean(0)
    shift = torch.stack([m(middle) for m in maps]).mean(0) - matrix @ middle
    # Keep the position of the template's middle; change only its size and shape to the mean.
    mean = Affine(matrix, shift)
    keep = Affine(torch.eye(3), mean(middle) - middle)
    away = Transform((keep, mean.inverse()))
    return [away.then(transform) for transform in transforms]


def _enlarged(grid: WorkImage, images: Sequence[WorkImage], transforms: Sequence[Transform]) -> WorkImage:
    lower, upper = [], []
    for image, transform in zip(images, transforms, strict=True):
        size = torch.tensor(image.shape[::-1], dtype=torch.float32) - 1
        bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
        linear = Transform(tuple(step for step in transform.maps if isinstance(step, Affine)))
        corners = linear.inverse()(image.origin + bits * size * image.spacing)
        lower.append(corners.amin(0))
        upper.append(corners.amax(0))
    origin, end = torch.stack(lower).amin(0), torch.stack(upper).amax(0)
    shape = [max(2, int(n)) for n in ((end - origin) / grid.spacing + 1).flip(0)]
    return WorkImage(torch.full(shape, AIR), torch.ones(shape, dtype=torch.bool), origin, grid.spacing, config=grid.config)
