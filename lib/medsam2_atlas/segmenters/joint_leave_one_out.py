"""Learns the weights of the joint fusion for an atlas and a checkpoint, by leaving out one reference after another.

MedSAM2 needs a whole CT, so the CT of the left-out reference is read from its file, registered to an atlas of the other
references, and segmented with prompts from their votes, as any target. Its own label map is only compared with the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2_atlas.atlas import Atlas, Reference, ReferenceFiles
from medsam2_atlas.atlas.subset import subset
from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.dice import dice_per_organ
from medsam2_atlas.imaging.hounsfield import HuRule, read_ct
from medsam2_atlas.imaging.volume import Volume, read_labels
from medsam2_atlas.medsam2 import OrganLogits, Weights
from medsam2_atlas.scoremaps import ScoreMaps, fusion_config
from medsam2_atlas.segmenters.case import Case, Clock
from medsam2_atlas.segmenters.joint_config import joint_fusion_config
from medsam2_atlas.segmenters.joint_fusion import JointWeights, fuse_jointly
from medsam2_atlas.segmenters.joint_learning import learn_weights, sample_voxels
from medsam2_atlas.segmenters.joint_weights import LearntWeights
from medsam2_atlas.segmenters.resources import LoadedResources

_SEED = 20


@dataclass(frozen=True)
class LeftOut:
    """A left-out reference, segmented by the other references and MedSAM2.

    Attributes:
        scores: its score maps, voted by the other references.
        logits: the logits of MedSAM2's first pass, by organ number.
        truth: its label map on the grid of its CT, organ numbers `[z, y, x]`.
    """

    scores: ScoreMaps
    logits: dict[int, OrganLogits]
    truth: np.ndarray


def learn_for_atlas(
    atlas: Atlas, files: Sequence[ReferenceFiles], weights: Weights, progress: Progress = silent
) -> LearntWeights:
    """Returns the weights that are best for the references of an atlas, each left out once.

    Args:
        atlas: the atlas.
        files: the files of its references. References whose files are missing vote, but are not left out.
        weights: MedSAM2's weights, on the device to use.
        progress: called with the stage and the fraction completed.

    Raises:
        AtlasError: the files of too few references are given, or a file is not that of the reference.
        InputError: a file cannot be used.
    """
    available = checked_files(atlas, files)
    chosen = [reference for reference in atlas.references if reference.name in available]
    config, samples, cases = joint_fusion_config(), [], []
    for number, reference in enumerate(chosen):
        left_out = segment_left_out(atlas, reference, available[reference.name], weights)
        generator = np.random.default_rng([_SEED, number])
        samples.append(sample_voxels(left_out.logits, left_out.scores, left_out.truth, config, generator))
        cases.append(left_out)
        progress("left-out references", (number + 1) / len(chosen))
    found = learn_weights(samples, config)
    return LearntWeights(found, _dice(cases, JointWeights()), _dice(cases, found), len(chosen))


def checked_files(atlas: Atlas, files: Sequence[ReferenceFiles]) -> dict[str, ReferenceFiles]:
    """Returns the files of an atlas' references by name, after comparing their checksums with those of the references.

    Args:
        atlas: the atlas.
        files: files of annotated CTs; those of other cases are left out.

    Raises:
        AtlasError: the files of too few references are given, or a file has changed since it became a reference.
    """
    given = {each.name: each for each in files}
    found: dict[str, ReferenceFiles] = {}
    for reference in atlas.references:
        mine = given.get(reference.name)
        if mine is None:
            continue
        for file, checksum in ((mine.label, reference.sha256), (mine.image, reference.image_sha256)):
            if checksum and file.is_file() and sha256(file) != checksum:
                raise AtlasError(
                    file,
                    f"is not the file of the reference {reference.name}.",
                    "Name the folder that the atlas was built from.",
                )
        found[reference.name] = mine
    fewest = fusion_config().thresholds.min_references
    if len(found) < fewest:
        raise AtlasError(
            atlas.source,
            f"has {len(atlas.references)} references, and the files of {len(found)} of them were given.",
            f"Weights need {fewest}; name the folder that the atlas was built from, or use F with all weights 1.",
        )
    return found


def segment_left_out(atlas: Atlas, reference: Reference, files: ReferenceFiles, weights: Weights) -> LeftOut:
    """Segments the CT of a reference as a target of the other references.

    Args:
        atlas: the atlas.
        reference: the reference to leave out.
        files: the files of that reference.
        weights: MedSAM2's weights, on the device to use.

    Raises:
        InputError: a file cannot be used.
    """
    others = subset(atlas, [other.name for other in atlas.references if other is not reference])
    image = read_ct(files.image, HuRule.parse(str(atlas.options.get("hu", "check"))))
    case, clock = Case(image, LoadedResources(others, weights, device=weights.device)), Clock()
    scores, first = case.scores(clock), case.first_pass(clock)
    return LeftOut(scores, first.logits, _labels(files, image).array)


def _labels(files: ReferenceFiles, image: Volume) -> Volume:
    return read_labels(files.label, image)


def _dice(cases: Sequence[LeftOut], weights: JointWeights) -> Mapping[int, float]:
    """Returns the mean Dice of the fused label maps, by number of the organs that the references contain."""
    values: dict[int, list[float]] = {}
    for case in cases:
        present = [int(k) for k in np.unique(case.truth) if k and k in case.scores.maps]
        labels = fuse_jointly(case.logits, case.scores, weights).labels
        for k, dice in dice_per_organ(labels, case.truth, present).items():
            values.setdefault(k, []).append(dice)
    return {k: float(np.mean(found)) for k, found in sorted(values.items())}
