"""Fuses the logits of MedSAM2 with the corrected score maps to one label map, for strategy F.

At each voxel, an organ k has the sum

    w_k · logit_k / temperature + v_k · (log odds of its score map against the background − log odds of its threshold)

and the background has 0. The organ with the highest sum gets the voxel: the arg max of a softmax over background and organs.
That is a product of experts (Hinton, Neural Computation 2002), one for the anatomy and one for the edges.

- The temperature brings the logits of every checkpoint to one scale: the median positive logit of a case becomes `logit_scale`.
- A logit counts at most `max_logit`, so that a voxel far from the organ's score map is never part of the organ.
- Score maps are smoothed by `spread`, because their surfaces are off by about that much.
- Slices without logits, and organs that the network lost, are decided by the score maps alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from medsam2_atlas.imaging.cropped_map import Box, box_around, shape_of
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.masks import keep_largest_components
from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.scoremaps import ScoreMaps, adaptive_threshold, fusion_config
from medsam2_atlas.segmenters.joint_config import JointFusionConfig, joint_fusion_config

_SLICES = 16
"""Slices that are fused at once."""


@dataclass(frozen=True)
class JointWeights:
    """The weights of both sources, by organ number; 1 for organs that are not listed.

    Attributes:
        network: the weights of MedSAM2's logits.
        maps: the weights of the score maps' log odds.
    """

    network: Mapping[int, float] = field(default_factory=dict)
    maps: Mapping[int, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, dict[str, float]]:
        """Returns the weights of `network` and `maps` by organ name, for reports, provenance and files."""
        names = organ_table()
        sources = {"network": self.network, "maps": self.maps}
        return {source: {names[k].name: round(float(v), 4) for k, v in sorted(w.items())} for source, w in sources.items()}


@dataclass(frozen=True)
class Fused:
    """The result of the joint fusion.

    Attributes:
        labels: organ numbers `[z, y, x]`, uint8.
        disagreement: the share of an organ's voxels on which score map and network differ, 0..1, by organ number: of the voxels
            that at least one of them alone gives to the organ, those that the other one does not. Counted on the reduced grid.
    """

    labels: np.ndarray
    disagreement: dict[int, float]


@dataclass(frozen=True)
class OrganParts:
    """Both sources of an organ, before they are weighted.

    Attributes:
        label: the organ number.
        box: the box (z, y', x') of the reduced grid in which the organ may lie.
        odds: log odds of the score map, less those of its threshold, `[z, y', x']` float32 in `box`.
        logits: the network's logits; None if the network lost the organ.
    """

    label: int
    box: Box
    odds: np.ndarray
    logits: OrganLogits | None


def fuse_jointly(
    logits: Mapping[int, OrganLogits],
    scores: ScoreMaps,
    weights: JointWeights | None = None,
    config: JointFusionConfig | None = None,
) -> Fused:
    """Fuses logits and score maps to one label map; see the module docstring.

    The label map is made in blocks of slices, inside the box of each organ, so that the sums of all organs never exist at full
    resolution at the same time.

    Args:
        logits: the logits of the prompted organs, by number. Other organs are left out.
        scores: the corrected score maps of the target.
        weights: the weights of both sources; all 1 by default.
        config: the settings; those of `configs/joint_fusion.yaml` by default.
    """
    config, weights = config or joint_fusion_config(), weights or JointWeights()
    organs, heat = organ_parts(logits, scores, config), temperature(logits, config)
    shape, step = scores.geometry.shape, scores.stride
    labels, counts = np.zeros(shape, np.uint8), np.zeros((3, 256), np.int64)
    for first in range(0, shape[0], _SLICES):
        size = (min(_SLICES, shape[0] - first), *shape[1:])
        best, here = np.zeros(size, np.float32), labels[first : first + size[0]]
        alone = [_Alone(size, step) for _ in range(2)]
        for organ in organs:
            box = _full(organ.box, scores)
            z = slice(max(box[0].start, first), min(box[0].stop, first + size[0]))
            if z.start >= z.stop:
                continue
            place = (slice(z.start - first, z.stop - first), *box[1:])
            odds = _enlarged(organ, z, box[1:], step)
            found = odds * np.float32(weights.maps.get(organ.label, 1.0))
            alone[0].add(odds, place, organ.label)
            for planes, values in _network(organ, z, box[1:], shape[1:]):
                values *= 1 / heat
                alone[1].add(
                    values, (slice(place[0].start + planes.start, place[0].start + planes.stop), *box[1:]), organ.label
                )
                found[planes] += weights.network.get(organ.label, 1.0) * np.clip(values, -config.max_logit, config.max_logit)
            better = found > best[place]
            np.copyto(best[place], found, where=better)
            np.copyto(here[place], np.uint8(organ.label), where=better)
        maps, network = (each.labels for each in alone)
        for row, kept in zip(counts, (maps[maps == network], maps, network), strict=True):
            row += np.bincount(kept.ravel(), minlength=256)
    both, either = counts[0], counts[1] + counts[2] - counts[0]
    differ = {o.label: float(1 - both[o.label] / either[o.label]) for o in organs if either[o.label]}
    return Fused(keep_largest_components(labels), differ)


class _Alone:
    """The arg max of one source alone on some slices, at every `step`-th pixel."""

    def __init__(self, size: tuple[int, ...], step: int) -> None:
        self._step = step
        self._best = np.zeros((size[0], -(-size[1] // step), -(-size[2] // step)), np.float32)
        self.labels = np.zeros(self._best.shape, np.uint8)

    def add(self, values: np.ndarray, place: Box, label: int) -> None:
        """Adds an organ's values, `[z, y, x]` at `place`."""
        step = self._step
        reduced = (place[0], *(slice(span.start // step, -(-span.stop // step)) for span in place[1:]))
        found = values[:, ::step, ::step]
        better = found > self._best[reduced]
        np.copyto(self._best[reduced], found, where=better)
        np.copyto(self.labels[reduced], np.uint8(label), where=better)


def temperature(logits: Mapping[int, OrganLogits], config: JointFusionConfig) -> float:
    """Returns the divisor of a case's logits: the median over organs of the median positive logit becomes `logit_scale`."""
    positive = (values[values > 0] for values in (each.values.float().numpy() for each in logits.values()))
    medians = [float(np.median(values)) for values in positive if values.size]
    return float(np.median(medians)) / config.logit_scale if medians else 1.0


def organ_parts(logits: Mapping[int, OrganLogits], scores: ScoreMaps, config: JointFusionConfig) -> list[OrganParts]:
    """Returns both sources of all organs with logits. An organ without a score map has log odds of 0.

    Args:
        logits: the logits of the prompted organs, by number.
        scores: the corrected score maps of the target. Those of other organs also lower the background's score.
        config: the settings.
    """
    shape, spacing = scores.reduced_shape, scores.reduced_spacing
    total = np.zeros(shape, np.float32)
    spread: dict[int, tuple[Box, np.ndarray]] = {}
    for k, score in scores.maps.items():
        if score.values.size:
            box = box_around([score], config.reach / spacing, shape)
            size = float(score.values.sum(dtype=np.int64) / 255 * spacing.prod()) ** (1 / 3)
            width = min(config.spread, config.spread_share * size)
            spread[k] = box, ndimage.gaussian_filter(score.probabilities(box), width / spacing)
            total[box] += spread[k][1]
    found, limits = [], fusion_config().thresholds
    for k, (box, values) in spread.items():
        if k in logits:
            threshold = adaptive_threshold(scores.maps[k], limits)
            background = np.log(np.clip(1 - total[box], config.min_score, 1))
            odds = np.log(np.maximum(values, config.min_score)) - background - np.float32(np.log(threshold / (1 - threshold)))
            found.append(OrganParts(k, box, odds, None if _is_lost(logits[k], scores, config) else logits[k]))
    for k in sorted(logits.keys() - spread.keys()):  # the atlas lacks the organ, and a U-Net gave its prompt
        box = (slice(logits[k].z_min, logits[k].z_min + len(logits[k].values)), slice(0, shape[1]), slice(0, shape[2]))
        found.append(OrganParts(k, box, np.broadcast_to(np.float32(0), shape_of(box)), logits[k]))
    return found


def reduced_logits(organ: OrganParts, scores: ScoreMaps) -> np.ndarray:
    """Returns an organ's logits on the reduced grid, `[z, y', x']` float32 in its box; 0 on slices without logits."""
    found = np.zeros(organ.odds.shape, np.float32)
    shape = tuple(n / scores.stride for n in scores.geometry.shape[1:])
    for planes, values in _network(organ, organ.box[0], organ.box[1:], shape):
        found[planes] = values
    return found


def _is_lost(logits: OrganLogits, scores: ScoreMaps, config: JointFusionConfig) -> bool:
    """Returns whether the network's mask is much smaller than the score map lets expect."""
    _, rows, columns = scores.geometry.shape
    pixels = float((logits.values > 0).sum()) / logits.values[0].numel() * rows * columns
    expected = float(scores.maps[logits.label].values.sum(dtype=np.int64)) / 255 * scores.stride**2
    return pixels < config.min_found * expected


def _full(box: Box, scores: ScoreMaps) -> Box:
    """Returns a box of the reduced grid as a box of the full grid."""
    ends = zip(box[1:], scores.geometry.shape[1:], strict=True)
    return (box[0], *(slice(span.start * scores.stride, min(n, span.stop * scores.stride)) for span, n in ends))


def _enlarged(organ: OrganParts, z: slice, plane: Box, stride: int) -> np.ndarray:
    """Returns an organ's log odds on some slices at full resolution, `[z, y, x]` in its box."""
    values = organ.odds[z.start - organ.box[0].start : z.stop - organ.box[0].start]
    if stride == 1:
        return values
    sizes = zip(values.shape[1:], plane, strict=True)
    y, x = (_bilinear(n, 1 / stride, range(span.stop - span.start)) for n, span in sizes)
    result: np.ndarray = y @ values @ x.T
    return result


def _network(organ: OrganParts, z: slice, plane: Box, shape: tuple[float, ...]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields an organ's logits, `[z, y, x]` in its box, and their position among slices `z`; none if the organ is lost.

    `shape` is the number of rows and columns of the image, in the pixels of the box.
    """
    logits = organ.logits
    if logits is None:
        return
    start, stop = max(z.start, logits.z_min), min(z.stop, logits.z_min + len(logits.values))
    if start < stop:
        values = logits.values[start - logits.z_min : stop - logits.z_min].float().numpy()
        sizes = zip(values.shape[1:], shape, plane, strict=True)
        y, x = (_bilinear(n, n / whole, range(span.start, span.stop)) for n, whole, span in sizes)
        rows, columns = _used(y), _used(x)  # only the pixels around the box
        yield slice(start - z.start, stop - z.start), y[:, rows] @ values[:, rows, columns] @ x[:, columns].T


def _used(matrix: np.ndarray) -> slice:
    """Returns the columns of a matrix from the first to the last that is not 0."""
    columns = np.flatnonzero(matrix.any(0))
    return slice(int(columns[0]), int(columns[-1]) + 1)


def _bilinear(count: int, ratio: float, outputs: range) -> np.ndarray:
    """Returns the matrix `[outputs, count]` that interpolates linearly along an axis, as `torch` does without aligned corners.

    Args:
        count: number of input pixels.
        ratio: input pixels per output pixel.
        outputs: the output pixels to compute.
    """
    places = np.clip((np.arange(outputs.start, outputs.stop) + 0.5) * ratio - 0.5, 0, count - 1)
    lower = np.minimum(places.astype(int), max(0, count - 2))
    matrix, rows = np.zeros((len(outputs), count), np.float32), np.arange(len(outputs))
    matrix[rows, np.minimum(lower + 1, count - 1)] = places - lower
    matrix[rows, lower] += 1 - (places - lower)
    return matrix
