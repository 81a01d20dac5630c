"""Sliding-window inference, and the way back to the image's own grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer
from monai.transforms import Compose

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.masks import keep_largest_components
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.inference_config import unet_inference_config
from medsam2_atlas.unet.network import UNet
from medsam2_atlas.unet.transforms import array_affine, grid_transforms


@dataclass(frozen=True)
class UNetPrediction:
    """A label map on the image's grid, and how sure the network is per organ: mean probability of its voxels."""

    labels: np.ndarray
    confidence: dict[int, float]


class UNetInferer(Inferer):
    """Probabilities of a whole volume: overlapping windows blended with Gaussian weights, softmax, optional variants."""

    def __init__(self, config: UNetConfig, *, augment: bool = False, memory: Memory = "", progress: Progress = silent) -> None:
        """
        Args:
            config: of the network.
            augment: average over slightly turned and scaled copies too (`configs/unet.yaml`); five times as long.
            memory: `small` puts the volume together in main memory, so that the network's device holds a window at a time;
                `smallest` also gives windows fewer slices, so that the result differs.
            progress: called with the fraction completed.
        """
        super().__init__()
        self._spares, settings = memory in ("small", "smallest"), unet_inference_config()
        patch = tuple(reversed(_shorter(config) if memory == "smallest" else config.patch))
        # Where the scan is shorter than a window, its last slices are repeated, as in training: air there would show the
        # network a cut that no patient has.
        options: dict[str, Any] = {"overlap": config.overlap, "mode": "gaussian", "padding_mode": "replicate"}
        self._windows: SlidingWindowInferer = (
            SliceInferer(spatial_dim=0, roi_size=patch, sw_batch_size=1 if self._spares else settings.window_batch, **options)
            if config.dimensions == 2
            else SlidingWindowInferer(roi_size=patch, sw_batch_size=1, **options)
        )
        self._variants = ((0.0, 1.0), *settings.variants) if augment else ((0.0, 1.0),)
        self._progress = progress

    def __call__(self, inputs: torch.Tensor, network: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Probabilities `[1, classes, z, y, x]` of an image `[1, 1, z, y, x]`: where the image lies, or in main memory if
        memory is spared. Windows lie where the network does."""
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        device = next(network.parameters(), image).device if isinstance(network, torch.nn.Module) else image.device
        if self._spares:
            image = image.cpu()
        self._windows.sw_device = device
        cuda = device.type == "cuda"
        total: torch.Tensor | None = None
        # Mixed precision is for the network alone, also within a training's own: coordinates in half precision would be a
        # tenth of a voxel off, and windows would be blended with rounded weights.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for number, (degrees, scale) in enumerate(self._variants):
                turned = degrees != 0 or scale != 1

                def window(patch: torch.Tensor, share: float = number / len(self._variants)) -> Any:
                    self._progress("U-Net", share)  # a job may be stopped between windows
                    with torch.autocast(device.type, enabled=cuda):
                        return network(patch).float()

                logits = self._windows(_turned(image, degrees, scale) if turned else image, window)
                found = logits.softmax(1)
                del logits
                found = _turned(found, degrees, scale, inverse=True) if turned else found
                total = found if total is None else total.add_(found)
                self._progress("U-Net", (number + 1) / len(self._variants))
        assert total is not None, "the first variant is the image itself"
        return total.div_(len(self._variants)) if len(self._variants) > 1 else total


def _shorter(config: UNetConfig) -> tuple[int, ...]:
    """Returns sides of windows with fewer slices (`reduced_slices`), as many as the network can take.

    Their other sides stay: with half of all sides, the demo U-Net's mean Dice fell from .88 to .32 on phantoms, for it tells
    organs by what lies around them. In two dimensions, windows stay as they are.
    """
    step, slices = 2 ** (len(config.filters) - 1), config.patch[-1]
    fewer = int(slices * unet_inference_config().reduced_slices) // step * step
    return (*config.patch[:-1], fewer) if config.dimensions == 3 and fewer else config.patch


def _turned(image: torch.Tensor, degrees: float, scale: float, inverse: bool = False) -> torch.Tensor:
    """Returns the image turned in its axial planes and scaled about its middle, `[1, c, z, y, x]`; or that undone."""
    rows, columns = image.shape[-2:]
    angle = np.radians(degrees)
    matrix: np.ndarray = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    matrix = np.linalg.inv(matrix) if inverse else matrix
    matrix = matrix * np.array([[1, rows / columns], [columns / rows, 1]])  # grid_sample's units are not square
    theta = torch.tensor(np.concatenate([matrix, np.zeros((2, 1))], 1), dtype=torch.float32, device=image.device)
    result = torch.empty_like(image)
    for z in range(image.shape[2]):  # plane by plane: no second stack of channels
        plane = image[:, :, z]
        grid = F.affine_grid(theta[None], list(plane.shape), align_corners=False)
        result[:, :, z] = F.grid_sample(plane, grid.to(plane.dtype), padding_mode="border", align_corners=False)
    return result


def preprocess(volume: Volume, config: UNetConfig) -> MetaTensor:
    """Returns the image on the network's grid, `[1, z, y, x]`, 0..1, cropped to the body."""
    image: MetaTensor = Compose(grid_transforms(config, labels=False))({"image": volume})["image"]
    return image


def predict(
    volume: Volume, unet: UNet, *, augment: bool = False, memory: Memory = "", progress: Progress = silent
) -> UNetPrediction:
    """Segments a CT; `memory` as in `UNetInferer`.

    Raises:
        InputError: an image that cannot be used.
    """
    image = preprocess(volume, unet.config)
    inferer = UNetInferer(unet.config, augment=augment, memory=memory, progress=progress)
    found = inferer(image[None] if memory in ("small", "smallest") else image[None].to(unet.device), unet.network)
    return restore(found[0].cpu(), image.affine, volume.geometry)


def restore(probabilities: torch.Tensor, affine: torch.Tensor, geometry: Geometry) -> UNetPrediction:
    """Returns the label map of probabilities on the network's grid, on the image's grid.

    Probabilities, not labels, are interpolated, plane by plane, and only for classes and where there is something: never
    a stack of organs at full resolution.

    Args:
        probabilities: `[classes, z, y, x]` on the network's grid.
        affine: of that grid, index (z, y, x) to world, `[4, 4]`.
        geometry: the image's grid; its axes are parallel to the network's.
    """
    probabilities = torch.as_tensor(probabilities)
    to_work = (torch.linalg.inv(torch.as_tensor(affine, dtype=torch.float64)) @ array_affine(geometry)).numpy()
    scale, shift = np.diag(to_work)[:3], to_work[:3, 3]
    depth, minimum = probabilities.shape[1], unet_inference_config().min_probability
    labels = np.zeros(geometry.shape, np.uint8)
    sums, counts = np.zeros(probabilities.shape[0]), np.zeros(probabilities.shape[0], np.int64)
    axes = [torch.arange(geometry.shape[a], dtype=torch.float32) * scale[a] + shift[a] for a in (1, 2)]
    for z in range(geometry.shape[0]):
        place = scale[0] * z + shift[0]
        if not -0.5 < place < depth - 0.5:
            continue
        low = int(np.clip(np.floor(place), 0, depth - 1))
        high, part = min(low + 1, depth - 1), float(np.clip(place - low, 0, 1))
        plane = probabilities[:, low] * (1 - part) + probabilities[:, high] * part
        here = [k for k in range(1, len(plane)) if float(plane[k].max()) > minimum]
        spans = _spans(plane[here].amax(0) > minimum, axes) if here else None
        if spans is None:
            continue
        rows, columns = spans
        classes = torch.tensor([0, *here])
        full = _sampled(plane[classes], axes[0][rows], axes[1][columns])
        best, winner = full.max(0)
        found = classes[winner].numpy()
        labels[z, rows, columns] = found
        sums += np.bincount(found.ravel(), best.numpy().ravel(), len(plane))
        counts += np.bincount(found.ravel(), minlength=len(plane))
    confidence = {k: float(sums[k] / counts[k]) for k in range(1, len(counts)) if counts[k]}
    return UNetPrediction(keep_largest_components(labels), confidence)


def _spans(mask: torch.Tensor, axes: list[torch.Tensor]) -> tuple[slice, slice] | None:
    """Rows and columns of the image whose places on the network's grid lie within a mask's box, one voxel wider."""
    spans = []
    for axis, places in enumerate(axes):
        seen = torch.where(mask.any(1 - axis))[0]
        near = (places >= int(seen[0]) - 1) & (places <= int(seen[-1]) + 1)
        inside = torch.where(near & (places > -0.5) & (places < mask.shape[axis] - 0.5))[0]
        if not len(inside):
            return None
        spans.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return spans[0], spans[1]


def _sampled(plane: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Returns `[c, y, x]` at places (row, column), by bilinear interpolation along one axis after the other."""
    for axis, places in ((1, rows), (2, columns)):
        last = plane.shape[axis] - 1
        low = places.floor().clamp(0, last).long()
        part = (places - low).clamp(0, 1)
        shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
        upper = plane.index_select(axis, (low + 1).clamp(max=last))
        plane = plane.index_select(axis, low).lerp(upper, part.view(shape))
    return plane
