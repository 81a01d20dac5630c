"""Sliding-window inference, and resampling of its result to the image's own grid."""

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
from medsam2_atlas.base.stages import stage
from medsam2_atlas.imaging.masks import keep_largest_components
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.inference_config import unet_inference_config
from medsam2_atlas.unet.network import UNet
from medsam2_atlas.unet.transforms import array_affine, grid_transforms


@dataclass(frozen=True)
class UNetPrediction:
    """A segmentation by a U-Net.

    Attributes:
        labels: organ numbers `[z, y, x]` on the image's grid, uint8.
        confidence: mean probability of the voxels labelled as each organ, by organ number.
    """

    labels: np.ndarray
    confidence: dict[int, float]


class UNetInferer(Inferer):
    """Computes the probabilities of a whole volume from overlapping windows, blended with Gaussian weights."""

    def __init__(self, config: UNetConfig, *, augment: bool = False, memory: Memory = "", progress: Progress = silent) -> None:
        """Prepares the windows.

        Args:
            config: configuration of the network.
            augment: also average over slightly rotated and scaled copies (`configs/unet.yaml`); takes five times as long.
            memory: `small` assembles the volume in main memory, so that the network's device stores one window at a time;
                `smallest` also gives the windows fewer slices, which changes the result.
            progress: called with the fraction completed.
        """
        super().__init__()
        self._spares, settings = memory in ("small", "smallest"), unet_inference_config()
        patch = tuple(reversed(_shorter(config) if memory == "smallest" else config.patch))
        # If the scan is shorter than a window, its outermost slices are repeated, as in training. Padding with air would show
        # the network a body that ends at the scan's edge, which no patient has.
        options: dict[str, Any] = {"overlap": config.overlap, "mode": "gaussian", "padding_mode": "replicate"}
        self._windows: SlidingWindowInferer = (
            SliceInferer(spatial_dim=0, roi_size=patch, sw_batch_size=1 if self._spares else settings.window_batch, **options)
            if config.dimensions == 2
            else SlidingWindowInferer(roi_size=patch, sw_batch_size=1, **options)
        )
        self._variants = ((0.0, 1.0), *settings.variants) if augment else ((0.0, 1.0),)
        self._progress = progress

    def __call__(self, inputs: torch.Tensor, network: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Returns the probabilities `[1, classes, z, y, x]` of an image `[1, 1, z, y, x]` with intensities 0..1.

        The result is on the image's device, or in main memory if memory is `small` or `smallest`. Each window is computed on
        the network's device.
        """
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        device = next(network.parameters(), image).device if isinstance(network, torch.nn.Module) else image.device
        if self._spares:
            image = image.cpu()
        self._windows.sw_device = device
        cuda = device.type == "cuda"
        total: torch.Tensor | None = None
        # Mixed precision is for the network alone, even if a training has enabled it: coordinates in half precision would be a
        # tenth of a voxel off, and windows would be blended with rounded weights.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for number, (degrees, scale) in enumerate(self._variants):
                turned = degrees != 0 or scale != 1

                def window(patch: torch.Tensor, share: float = number / len(self._variants)) -> Any:
                    self._progress("U-Net", share)  # a job can be stopped between windows
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
    """Returns the size (x, y, z) of windows with fewer slices (`reduced_slices`), rounded down to a size the network accepts.

    The other sides do not change. With all sides halved, the demo U-Net's mean Dice fell from .88 to .32 on phantoms: it
    recognises organs by their surroundings. Two-dimensional windows stay unchanged.
    """
    step, slices = 2 ** (len(config.filters) - 1), config.patch[-1]
    fewer = int(slices * unet_inference_config().reduced_slices) // step * step
    return (*config.patch[:-1], fewer) if config.dimensions == 3 and fewer else config.patch


def _turned(image: torch.Tensor, degrees: float, scale: float, inverse: bool = False) -> torch.Tensor:
    """Returns an image `[1, c, z, y, x]`, rotated in its axial planes and scaled about its centre, or the inverse of that."""
    rows, columns = image.shape[-2:]
    angle = np.radians(degrees)
    matrix: np.ndarray = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    matrix = np.linalg.inv(matrix) if inverse else matrix
    matrix = matrix * np.array([[1, rows / columns], [columns / rows, 1]])  # grid_sample's units are not square
    theta = torch.tensor(np.concatenate([matrix, np.zeros((2, 1))], 1), dtype=torch.float32, device=image.device)
    result = torch.empty_like(image)
    for z in range(image.shape[2]):  # plane by plane, so that no second copy of all channels is needed
        plane = image[:, :, z]
        grid = F.affine_grid(theta[None], list(plane.shape), align_corners=False)
        result[:, :, z] = F.grid_sample(plane, grid.to(plane.dtype), padding_mode="border", align_corners=False)
    return result


def preprocess(volume: Volume, config: UNetConfig) -> MetaTensor:
    """Resamples a CT to the network's grid, which is cropped to the body unless `slice_pixels` is set.

    Args:
        volume: the CT, `[z, y, x]` in HU.
        config: configuration of the network.

    Returns:
        The image `[1, z, y, x]`, 0..1 over the HU window.
    """
    image: MetaTensor = Compose(grid_transforms(config, labels=False))({"image": volume})["image"]
    return image


def predict(
    volume: Volume, unet: UNet, *, augment: bool = False, memory: Memory = "", progress: Progress = silent
) -> UNetPrediction:
    """Segments a CT.

    Args:
        volume: the CT, `[z, y, x]` in HU.
        unet: the trained network.
        augment: see `UNetInferer`.
        memory: see `UNetInferer`.
        progress: called with the fraction completed.

    Returns:
        The label map on the grid of the CT, and the confidence of each organ.

    Raises:
        InputError: if the image cannot be used.
    """
    image = preprocess(volume, unet.config)
    inferer = UNetInferer(unet.config, augment=augment, memory=memory, progress=progress)
    with stage("network"):
        found = inferer(image[None] if memory in ("small", "smallest") else image[None].to(unet.device), unet.network)[0].cpu()
    return restore(found, image.affine, volume.geometry)


def restore(probabilities: torch.Tensor, affine: torch.Tensor, geometry: Geometry) -> UNetPrediction:
    """Converts probabilities on the network's grid to a label map on the image's grid.

    Probabilities are interpolated, not labels. This is done slice by slice, only for the classes on the slice and the region
    that contains them. So the probabilities of all organs never exist at full resolution at the same time.

    Args:
        probabilities: probabilities `[classes, z, y, x]` on the network's grid, 0..1.
        affine: affine `[4, 4]` of that grid: index (z, y, x) to world (x, y, z) in mm.
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
    """Returns the image's rows and columns within the bounding box of a mask `[y, x]`, enlarged by one voxel.

    `axes` lists the positions of the image's rows and columns on the mask's grid. Returns None if no row or no column lies
    within the box.
    """
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
    """Interpolates `[c, y, x]` bilinearly at the given rows and columns, along one axis after the other."""
    for axis, places in ((1, rows), (2, columns)):
        last = plane.shape[axis] - 1
        low = places.floor().clamp(0, last).long()
        part = (places - low).clamp(0, 1)
        shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
        upper = plane.index_select(axis, (low + 1).clamp(max=last))
        plane = plane.index_select(axis, low).lerp(upper, part.view(shape))
    return plane
