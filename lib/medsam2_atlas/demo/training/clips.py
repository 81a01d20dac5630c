"""Draws clips of phantom slices with box prompts: the training data of the demo network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from medsam2_atlas.base.files import replacing
from medsam2_atlas.demo.phantoms.dataset import draw_case
from medsam2_atlas.medsam2.preprocessing import IMAGENET_MEAN, IMAGENET_STD, to_uint8

HARD_ORGANS = {4: 2.5, 5: 2.0, 9: 2.0, 10: 2.2, 11: 2.0, 12: 1.5, 13: 3.0}
"""Sampling weights of organs that are small, thin, or change quickly between slices; the others have weight 1."""


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum.

    Attributes:
        slices: slices per clip.
        clips: clips per batch.
        organs: organs per clip.
        strides: possible strides between the slices of a clip.
        second_box: probability of a box on the last slice too.
    """

    slices: int
    clips: int
    organs: int
    strides: tuple[int, ...]
    second_box: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Clips in the format of the network; the first axis is the slice.

    Attributes:
        images: normalised images `[slices, clips, 3, S, S]`.
        masks: true masks `[slices, objects, s, s]`, 0..1.
        boxes: boxes `[slices, objects, 2, 2]` in pixels of the network's image: first and last corner (x, y).
        clip_of: clip of each object, `[objects]`.
        prompted: slices with a prompt.
    """

    images: torch.Tensor
    masks: torch.Tensor
    boxes: torch.Tensor
    clip_of: torch.Tensor
    prompted: list[int]


class PhantomPool:
    """Phantoms that were rendered into a folder; it draws random clips of them."""

    def __init__(self, folder: Path, seed: int, count: int) -> None:
        """Loads `count` phantoms of the population `seed`, which `render` has written."""
        self.images: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.spacing: list[float] = []
        for index in range(count):
            file = folder / f"{seed}-{index}.npz"
            with np.load(file, allow_pickle=False) as case:
                self.images.append(case["image"])
                self.labels.append(case["label"])
                self.spacing.append(float(case["slices"]))
        self.present = [{k: np.flatnonzero((label == k).sum((1, 2)) >= 4) for k in range(1, 16)} for label in self.labels]

    @staticmethod
    def render(folder: Path, seed: int, index: int) -> None:
        """Renders the phantom `index` of the population `seed` into the folder, if it is missing."""
        file = folder / f"{seed}-{index}.npz"
        if file.exists():
            return
        case = draw_case(seed, index)
        with replacing(file) as part:
            np.savez_compressed(part, image=to_uint8(case.image), label=case.label, slices=case.scan.spacing[2])

    def batch(self, generator: np.random.Generator, stage: Stage, size: int, mask_size: int) -> Batch:
        """Draws random clips with a box on the first slice, and sometimes on the last one too.

        Args:
            generator: random generator.
            stage: stage of the curriculum.
            size: side of the network's images, in pixels.
            mask_size: side of the masks, in pixels.
        """
        images, masks, clip_of = [], [], []
        for clip in range(stage.clips):
            image, mask = self._clip(generator, stage, size, mask_size)
            images.append(image)
            masks.append(mask)
            clip_of += [clip] * mask.shape[1]
        prompted = [0]
        if stage.slices > 2 and generator.random() < stage.second_box:
            prompted.append(stage.slices - 1)
        all_masks = torch.cat(masks, 1)
        boxes = _jittered_boxes(generator, all_masks, size / mask_size)
        return Batch(torch.stack(images, 1), all_masks, boxes, torch.tensor(clip_of), prompted)

    def _clip(
        self, generator: np.random.Generator, stage: Stage, size: int, mask_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        while True:
            case = int(generator.integers(len(self.images)))
            present = [k for k, z in self.present[case].items() if len(z)]
            weights = np.array([HARD_ORGANS.get(k, 1.0) for k in present])
            organ = int(generator.choice(present, p=weights / weights.sum()))
            start = int(generator.choice(self.present[case][organ]))
            stride = int(generator.choice(stage.strides))
            if stride and self.spacing[case] < 2.2:
                stride *= 2
            step = stride * int(generator.choice([-1, 1]))
            planes = start + step * np.arange(stage.slices)
            if planes.min() >= 0 and planes.max() < len(self.images[case]):
                break
        here = [k for k in present if k != organ and start in self.present[case][k]]
        weights = np.array([HARD_ORGANS.get(k, 1.0) for k in here])
        more = min(stage.organs - 1, len(here))
        others: list[int] | np.ndarray = generator.choice(here, more, replace=False, p=weights / weights.sum()) if more else []
        organs = [organ, *(int(k) for k in others)]
        image = torch.from_numpy(self.images[case][planes].astype(np.float32))[:, None]
        label = torch.from_numpy(self.labels[case][planes])
        mask = torch.stack([(label == k).float() for k in organs], 1)
        warp = _random_plane_warp(generator)
        image = F.grid_sample(image, _grid(warp, len(planes), size), padding_mode="border", align_corners=False)
        mask = F.grid_sample(mask, _grid(warp, len(planes), mask_size), align_corners=False)
        gain, shift = generator.normal(1, 0.08), generator.normal(0, 8)
        noise = torch.from_numpy(generator.normal(0, 1, image.shape).astype(np.float32)) * abs(generator.normal(0, 3))
        image = ((image * gain + shift + noise).clamp(0, 255) / 255).expand(-1, 3, -1, -1)
        mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
        return (image - mean) / std, mask


def _random_plane_warp(generator: np.random.Generator) -> torch.Tensor:
    angle = np.radians(generator.normal(0, 4))
    zoom = np.exp(generator.normal(0, 0.07) + generator.normal(0, 0.06, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
    return torch.from_numpy(np.concatenate([turn, generator.normal(0, 0.05, (2, 1))], 1).astype(np.float32))


def _grid(warp: torch.Tensor, slices: int, size: int) -> torch.Tensor:
    return F.affine_grid(warp.expand(slices, 2, 3), [slices, 1, size, size], align_corners=False)


def _jittered_boxes(generator: np.random.Generator, masks: torch.Tensor, scale: float) -> torch.Tensor:
    """Returns the masks' bounding boxes `[slices, objects, 2, 2]` with randomly moved sides, like imprecise prompts."""
    slices, objects = masks.shape[:2]
    boxes = torch.zeros(slices, objects, 2, 2)
    spread = 0.03 if generator.random() < 0.5 else 0.12
    for t in range(slices):
        for n in range(objects):
            inside = (masks[t, n] > 0.5).nonzero()
            if not len(inside):
                inside = torch.zeros(1, 2, dtype=torch.long)
            low, high = inside.amin(0).flip(0).float(), inside.amax(0).flip(0).float() + 1
            sides = torch.stack([low, high])
            moved = torch.from_numpy(generator.normal(0, spread, (2, 2)).astype(np.float32)) * (high - low)
            boxes[t, n] = sides + moved
    return (boxes * scale).clamp(0, masks.shape[-1] * scale)
