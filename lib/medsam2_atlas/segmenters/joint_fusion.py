"""Fuses the logits of MedSAM2 with the corrected score maps to one label map, for strategy F.

At each voxel, an organ k has the sum

    w_k · logit_k / temperature + v_k · (log odds of its score map against the background − log odds of its threshold)

and the background has 0. The organ with the highest sum gets the voxel: the arg max of a softmax over background and organs.
That is a product of experts (Hinton, Neural Computation 2002), one for the anatomy and one for the edges.

- The temperature brings the logits of every checkpoint to one scale: the median positive logit of a case becomes `logit_scale`.
- A logit counts at most `max_logit`, so that a voxel far from the organ's score map is never part of the organ.
- Score maps are smoothed by `spread`, because their surfaces are off by about that much.
- Slices without logits, and organs that the network lost, are decided by the score maps alone.
- Learnt weights hold for cases like those that they were learnt on. If both sources agree less on an organ than they did there,
  the network's weight is multiplied by (agreement / agreement there) to the power of `agreement_power`, which is 0 by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medsam2_atlas.imaging.cropped_map import Box
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.masks import keep_largest_components
from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.scoremaps import ScoreMaps
from medsam2_atlas.segmenters.joint_config import JointFusionConfig, joint_fusion_config
from medsam2_atlas.segmenters.joint_parts import disagreement, enlarged_odds, network_logits, organ_parts, temperature

_SLICES = 16
"""Slices that are fused at once."""


@dataclass(frozen=True)
class JointWeights:
    """The weights of both sources, by organ number; 1 for organs that are not listed.

    Attributes:
        network: the weights of MedSAM2's logits.
        maps: the weights of the score maps' log odds.
        agreement: the mean agreement of both sources, 1 less their disagreement, in the cases of the learning; the network's
            weight falls in cases with less. Organs that are not listed keep their weight.
    """

    network: Mapping[int, float] = field(default_factory=dict)
    maps: Mapping[int, float] = field(default_factory=dict)
    agreement: Mapping[int, float] = field(default_factory=dict)

    def of_network(self, organ: int, agreement: float, config: JointFusionConfig) -> float:
        """Returns the weight of an organ's logits in a case with that agreement of both sources, 0..1."""
        usual = self.agreement.get(organ, 0.0)
        share = min(1.0, agreement / usual) if usual > 0 else 1.0
        return float(self.network.get(organ, 1.0) * share**config.agreement_power)

    def as_json(self) -> dict[str, dict[str, float]]:
        """Returns `network`, `maps` and, unless it is empty, `agreement` by organ name, for reports, provenance and files."""
        names = organ_table()
        sources = {"network": self.network, "maps": self.maps} | ({"agreement": self.agreement} if self.agreement else {})
        return {source: {names[k].name: round(float(v), 4) for k, v in sorted(w.items())} for source, w in sources.items()}


@dataclass(frozen=True)
class Fused:
    """The result of the joint fusion.

    Attributes:
        labels: organ numbers `[z, y, x]`, uint8.
        disagreement: the share of an organ's voxels on which score map and network differ, 0..1, by organ number; see
            `joint_parts.disagreement`.
    """

    labels: np.ndarray
    disagreement: dict[int, float]


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
    differ = disagreement(organs, scores, heat)
    shape = scores.geometry.shape
    labels = np.zeros(shape, np.uint8)
    for first in range(0, shape[0], _SLICES):
        size = (min(_SLICES, shape[0] - first), *shape[1:])
        best, here = np.zeros(size, np.float32), labels[first : first + size[0]]
        for organ in organs:
            box = _full(organ.box, scores)
            z = slice(max(box[0].start, first), min(box[0].stop, first + size[0]))
            if z.start >= z.stop:
                continue
            place = (slice(z.start - first, z.stop - first), *box[1:])
            found = enlarged_odds(organ, z, box[1:], scores.stride) * np.float32(weights.maps.get(organ.label, 1.0))
            agreement = 1 - differ.get(organ.label, 1.0) if organ.has_map else 1.0
            weight = weights.of_network(organ.label, agreement, config)
            for planes, values in network_logits(organ, z, box[1:], shape[1:]):
                found[planes] += weight * np.clip(values * (1 / heat), -config.max_logit, config.max_logit)
            better = found > best[place]
            np.copyto(best[place], found, where=better)
            np.copyto(here[place], np.uint8(organ.label), where=better)
    return Fused(keep_largest_components(labels), differ)


def _full(box: Box, scores: ScoreMaps) -> Box:
    """Returns a box of the reduced grid as a box of the full grid."""
    ends = zip(box[1:], scores.geometry.shape[1:], strict=True)
    return (box[0], *(slice(span.start * scores.stride, min(n, span.stop * scores.stride)) for span, n in ends))
