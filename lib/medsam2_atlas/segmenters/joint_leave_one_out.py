"""Learns the weights of the joint fusion for an atlas and a checkpoint, by leaving out one reference after another.

MedSAM2 needs a whole CT, so the CT of the left-out reference is read from its file, registered to an atlas of the other
references, and segmented with prompts from their votes, as any target. Its own label map is only compared with the result.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2_atlas.atlas import Atlas, Reference, ReferenceFiles
from medsam2_atlas.atlas.subset import subset
from medsam2_atlas.base.errors import AtlasError, InputError, problem_of
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.hounsfield import HuRule, read_ct
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.medsam2 import OrganLogits, Weights
from medsam2_atlas.scoremaps import ScoreMaps
from medsam2_atlas.segmenters.case import Case, Clock
from medsam2_atlas.segmenters.joint_config import joint_fusion_config
from medsam2_atlas.segmenters.joint_fusion import JointWeights
from medsam2_atlas.segmenters.joint_learning import Sample, learn_weights, sample_voxels, sampled_dice
from medsam2_atlas.segmenters.joint_weights import LearntWeights
from medsam2_atlas.segmenters.resources import LoadedResources

log = logging.getLogger(__name__)

_SEED = 20
_FEWEST = 2
"""Min number of references that are left out in turn."""


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

    A reference whose files cannot be used votes, but is not left out. The logits of a reference are dropped before the next one
    is segmented; only a sample of its voxels is kept.

    Args:
        atlas: the atlas.
        files: the files of its references. References whose files are missing vote, but are not left out.
        weights: MedSAM2's weights, on the device to use.
        progress: called with the stage and the fraction completed.

    Returns:
        The weights, and the reason for each reference whose files cannot be used, by name.

    Raises:
        AtlasError: fewer than two references have usable files.
    """
    available, unusable = checked_files(atlas, files)
    samples: list[Sample] = []
    for number, (name, mine) in enumerate(available.items()):
        reference = next(each for each in atlas.references if each.name == name)
        try:
            samples.append(_sample(atlas, reference, mine, weights, number))
        except Exception as error:  # noqa: BLE001 - one bad reference must not block the others
            unusable[name] = problem_of(error)
            log.warning("%s is not left out in turn: %s", name, unusable[name])
            _check_count(atlas, len(samples) + len(available) - number - 1, unusable)
        progress("left-out references", (number + 1) / len(available))
    found = learn_weights(samples, joint_fusion_config())
    return LearntWeights(found, _dice(samples, JointWeights()), _dice(samples, found), len(samples)), unusable


def checked_files(atlas: Atlas, files: Sequence[ReferenceFiles]) -> tuple[dict[str, ReferenceFiles], dict[str, str]]:
    """Returns the files of an atlas' references, after comparing their checksums with those of the references.

    Args:
        atlas: the atlas.
        files: files of annotated CTs; those of other cases are left out.

    Returns:
        The files by name of the reference, and the problem of each reference whose files have changed, by name.

    Raises:
        AtlasError: the files of fewer than two references can be used.
    """
    given = {each.name: each for each in files}
    found, changed = dict[str, ReferenceFiles](), dict[str, str]()
    for reference in atlas.references:
        mine = given.get(reference.name)
        if mine is None:
            continue
        for file, checksum in ((mine.label, reference.sha256), (mine.image, reference.image_sha256)):
            if checksum and file.is_file() and sha256(file) != checksum:
                changed[reference.name] = f"{file} has changed since it became a reference."
        if reference.name not in changed:
            found[reference.name] = mine
    _check_count(atlas, len(found), changed)
    return found, changed


def _check_count(atlas: Atlas, usable: int, unusable: Mapping[str, str]) -> None:
    if usable < _FEWEST:
        reasons = " ".join(f"{name}: {problem}" for name, problem in sorted(unusable.items()))
        raise AtlasError(
            atlas.source,
            f"has {len(atlas.references)} references, and usable files of {usable} of them were given. {reasons[:2000]}",
            "Weights need two; name the folder that the atlas was built from, or use F with all weights 1.",
        )


def _sample(atlas: Atlas, reference: Reference, files: ReferenceFiles, weights: Weights, number: int) -> Sample:
    """Returns a sample of the voxels of the reference with that number; its logits are dropped."""
    left_out = segment_left_out(atlas, reference, files, weights)
    if not left_out.logits:
        raise InputError(files.image, "has no organ that the other references could prompt.", "Check the CT and its label map.")
    generator = np.random.default_rng([_SEED, number])
    return sample_voxels(left_out.logits, left_out.scores, left_out.truth, joint_fusion_config(), generator)


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
    truth = read_labels(files.label, image).array  # before the network runs, because a bad file ends the case
    resources = LoadedResources(others, weights, device=weights.device)
    case, clock = Case(image, resources), Clock()
    try:
        scores, first = case.scores(clock), case.first_pass(clock)
    finally:
        resources.images.close()  # the encoded slices need more memory than the logits
    return LeftOut(scores, first.logits, truth)


def _dice(samples: Sequence[Sample], weights: JointWeights) -> Mapping[int, float]:
    """Returns the mean estimated Dice by number of the organs that the references contain."""
    values: dict[int, list[float]] = {}
    for sample in samples:
        for k, dice in sampled_dice(sample, weights, joint_fusion_config()).items():
            values.setdefault(k, []).append(dice)
    return {k: float(np.mean(found)) for k, found in sorted(values.items())}
