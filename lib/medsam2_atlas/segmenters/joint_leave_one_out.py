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
from medsam2_atlas.base.errors import AtlasError, InputError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.hounsfield import HuRule, read_ct
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.medsam2 import OrganLogits, Weights
from medsam2_atlas.scoremaps import ScoreMaps, fusion_config
from medsam2_atlas.segmenters.case import Case, Clock
from medsam2_atlas.segmenters.joint_config import joint_fusion_config
from medsam2_atlas.segmenters.joint_fusion import JointWeights
from medsam2_atlas.segmenters.joint_learning import Sample, learn_weights, sample_voxels, sampled_dice
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
) -> tuple[LearntWeights, dict[str, str]]:
    """Learns the weights that are best for the references of an atlas, each left out once.

    A reference whose files cannot be used votes, but is not left out.

    Args:
        atlas: the atlas.
        files: the files of its references. References whose files are missing vote, but are not left out.
        weights: MedSAM2's weights, on the device to use.
        progress: called with the stage and the fraction completed.

    Returns:
        The weights, and the reason for each reference whose files cannot be used, by name.

    Raises:
        AtlasError: too few references have usable files, or a file is not that of the reference.
    """
    available = checked_files(atlas, files)
    chosen = [reference for reference in atlas.references if reference.name in available]
    config, samples, unusable = joint_fusion_config(), [], dict[str, str]()
    for number, reference in enumerate(chosen):
        try:
            left_out = segment_left_out(atlas, reference, available[reference.name], weights)
        except InputError as error:
            unusable[reference.name] = str(error)
            _check_count(atlas, len(chosen) - len(unusable))
        else:
            generator = np.random.default_rng([_SEED, number])
            samples.append(sample_voxels(left_out.logits, left_out.scores, left_out.truth, config, generator))
        progress("left-out references", (number + 1) / len(chosen))
    found = learn_weights(samples, config)
    return LearntWeights(found, _dice(samples, JointWeights()), _dice(samples, found), len(samples)), unusable


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
    _check_count(atlas, len(found))
    return found


def _check_count(atlas: Atlas, usable: int) -> None:
    fewest = fusion_config().thresholds.min_references
    if usable < fewest:
        raise AtlasError(
            atlas.source,
            f"has {len(atlas.references)} references, and usable files of {usable} of them were given.",
            f"Weights need {fewest}; name the folder that the atlas was built from, or use F with all weights 1.",
        )


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
    return LeftOut(scores, first.logits, read_labels(files.label, image).array)


def _dice(samples: Sequence[Sample], weights: JointWeights) -> Mapping[int, float]:
    """Returns the mean estimated Dice by number of the organs that the references contain."""
    values: dict[int, list[float]] = {}
    for sample in samples:
        for k, dice in sampled_dice(sample, weights).items():
            values.setdefault(k, []).append(dice)
    return {k: float(np.mean(found)) for k, found in sorted(values.items())}
