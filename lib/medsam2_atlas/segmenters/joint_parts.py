"""The two sources of the joint fusion: the log odds of score maps, and the logits of MedSAM2 on the same grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medsam2_atlas.imaging.cropped_map import Box, box_around, shape_of
from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.scoremaps import ScoreMaps, adaptive_threshold, fusion_config
from medsam2_atlas.segmenters.joint_config import JointFusionConfig


@dataclass(frozen=True)
class OrganParts:
    """Both sources of an organ, before they are weighted.

    Attributes:
        label: the organ number.
        box: the box (z, y', x') of the reduced grid in which the organ may lie.
        odds: log odds of the score map, less those of its threshold, `[z, y', x']` float32 in `box`.
        logits: the network's logits; None if the network lost the organ.
        has_map: whether the organ has a score map; if not, its log odds are 0.
    """

    label: int
    box: Box
    odds: np.ndarray
    logits: OrganLogits | None
    has_map: bool = True


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
        found.append(OrganParts(k, box, np.broadcast_to(np.float32(0), shape_of(box)), logits[k], has_map=False))
    return found


def reduced_logits(organ: OrganParts, scores: ScoreMaps) -> np.ndarray:
    """Returns an organ's logits on the reduced grid, `[z, y', x']` float32 in its box; 0 on slices without logits."""
    found = np.zeros(organ.odds.shape, np.float32)
    shape = tuple(n / scores.stride for n in scores.geometry.shape[1:])
    for planes, values in network_logits(organ, organ.box[0], organ.box[1:], shape):
        found[planes] = values
    return found


def disagreement(organs: Sequence[OrganParts], scores: ScoreMaps, heat: float) -> dict[int, float]:
    """Returns the share of each organ's voxels on which score map and network differ, 0..1, by organ number.

    Of the voxels of the reduced grid that at least one source alone gives to the organ, it is the share that the other one does
    not: 1 less the IoU of both masks. An organ that neither source finds is missing.

    Args:
        organs: both sources of all organs.
        scores: the score maps.
        heat: the temperature of the logits.
    """
    found = []
    for network in (False, True):
        best, labels = np.zeros(scores.reduced_shape, np.float32), np.zeros(scores.reduced_shape, np.uint8)
        for organ in organs:
            values = reduced_logits(organ, scores) / heat if network else organ.odds
            better = values > best[organ.box]
            np.copyto(best[organ.box], values, where=better)
            np.copyto(labels[organ.box], np.uint8(organ.label), where=better)
        found.append(labels)
    maps, network_labels = found
    both, first, second = (np.bincount(v.ravel(), minlength=256) for v in (maps[maps == network_labels], maps, network_labels))
    either = first + second - both
    return {o.label: float(1 - both[o.label] / either[o.label]) for o in organs if either[o.label]}


def _is_lost(logits: OrganLogits, scores: ScoreMaps, config: JointFusionConfig) -> bool:
    """Returns whether the network's mask is much smaller than the score map lets expect."""
    _, rows, columns = scores.geometry.shape
    pixels = float((logits.values > 0).sum()) / logits.values[0].numel() * rows * columns
    expected = float(scores.maps[logits.label].values.sum(dtype=np.int64)) / 255 * scores.stride**2
    return pixels < config.min_found * expected


def enlarged_odds(organ: OrganParts, z: slice, plane: Box, stride: int) -> np.ndarray:
    """Returns an organ's log odds on some slices at full resolution, `[z, y, x]` in its box."""
    values = organ.odds[z.start - organ.box[0].start : z.stop - organ.box[0].start]
    if stride == 1:
        return values
    sizes = zip(values.shape[1:], plane, strict=True)
    y, x = (_bilinear(n, 1 / stride, range(span.stop - span.start)) for n, span in sizes)
    result: np.ndarray = y @ values @ x.T
    return result


def network_logits(organ: OrganParts, z: slice, plane: Box, shape: tuple[float, ...]) -> Iterator[tuple[slice, np.ndarray]]:
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
