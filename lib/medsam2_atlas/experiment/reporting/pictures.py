"""Pictures of the best, the median and the worst case of each main variant: the prediction beside the ground truth."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medsam2_atlas.base.errors import problem_of
from medsam2_atlas.experiment.results import Results
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule, read_ct
from medsam2_atlas.imaging.preview import draw_preview
from medsam2_atlas.imaging.volume import Volume, read_labels

log = logging.getLogger(__name__)

RANKS = ("best", "median", "worst")
_MAX_WIDTH = 1280
_QUALITY = 80
"""Quality of JPEG: a picture has 50 to 100 kB, and edges of organs stay sharp."""


@dataclass(frozen=True)
class CaseFiles:
    """Finds the files of a case.

    Attributes:
        image_of: returns the CT of a case.
        truth_of: returns the ground truth of a case.
        prediction_of: returns the prediction of a variant on a case; None if it was not kept.
        hu: rule that converts the CT's values to HU.
    """

    image_of: Callable[[str], Path]
    truth_of: Callable[[str], Path]
    prediction_of: Callable[[str, Variant], Path | None]
    hu: HuRule = CHECK


@dataclass(frozen=True)
class PredictionPicture:
    """A drawn prediction.

    Attributes:
        variant: name of the variant.
        ranks: why the case is shown: `best`, `median`, `worst`.
        mean_dice: mean Dice of the case.
        content: the picture as JPEG; None if it cannot be drawn.
        remark: why it cannot be drawn; empty if it was drawn.
    """

    variant: str
    ranks: tuple[str, ...]
    mean_dice: float
    content: bytes | None
    remark: str = ""


@dataclass(frozen=True)
class CasePictures:
    """The pictures of a case. All show the same slices, which the ground truth selects.

    Attributes:
        case: name of the case.
        truth: the ground truth as JPEG; None if CT or ground truth cannot be read.
        predictions: predictions of the variants for which the case was chosen.
        remark: why nothing can be drawn; empty if it was drawn.
    """

    case: str
    truth: bytes | None
    predictions: tuple[PredictionPicture, ...]
    remark: str = ""


def ranked_cases(results: Results, variant: Variant) -> dict[str, tuple[str, ...]]:
    """Returns the best, the median and the worst case by mean Dice, with their ranks; with one or two cases, ranks coincide.

    Among equals, the first name counts as better. The median of an even number of cases is the better one of the middle two.

    Args:
        results: the experiment.
        variant: the variant.
    """
    means = results.case_means(variant, "dice")
    order = sorted(means, key=lambda case: (-means[case], case))
    if not order:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for rank, case in zip(RANKS, (order[0], order[(len(order) - 1) // 2], order[-1]), strict=True):
        found[case] = (*found.get(case, ()), rank)
    return found


def draw_cases(results: Results, files: CaseFiles) -> tuple[CasePictures, ...]:
    """Returns the pictures of the best, the median and the worst case of each main variant, by case.

    One case is in memory at a time, and its CT and ground truth are read and drawn once. A file that cannot be read becomes a
    remark, and is logged.

    Args:
        results: the experiment.
        files: CTs and label maps.
    """
    chosen: dict[str, list[_Choice]] = {}
    for variant in results.main:
        means, records = results.case_means(variant, "dice"), results.of(variant)
        for case, ranks in ranked_cases(results, variant).items():
            mark = str(records[case].report.get("mark") or "")
            chosen.setdefault(case, []).append(_Choice(variant, ranks, means[case], mark))
    return tuple(_case(case, chosen[case], files) for case in sorted(chosen))


@dataclass(frozen=True)
class _Choice:
    """A variant for which a case was chosen."""

    variant: Variant
    ranks: tuple[str, ...]
    mean_dice: float
    mark: str

    def picture(self, content: bytes | None, remark: str = "") -> PredictionPicture:
        return PredictionPicture(self.variant.name, self.ranks, self.mean_dice, content, remark)


def _case(case: str, choices: Sequence[_Choice], files: CaseFiles) -> CasePictures:
    try:
        image = read_ct(files.image_of(case), files.hu)
        truth = read_labels(files.truth_of(case), image)
        drawn = _jpeg(draw_preview(image, truth.array))
    except Exception as error:  # a report with fewer pictures is better than none
        log.warning("%s cannot be drawn", case, exc_info=True)
        left = tuple(choice.picture(None) for choice in choices)
        return CasePictures(case, None, left, f"The pictures cannot be drawn. {problem_of(error)}")
    return CasePictures(case, drawn, tuple(_prediction(case, choice, image, truth, files) for choice in choices))


def _prediction(case: str, choice: _Choice, image: Volume, truth: Volume, files: CaseFiles) -> PredictionPicture:
    try:
        file = files.prediction_of(case, choice.variant)
        if file is None:
            return choice.picture(None, "The prediction was not kept.")
        labels = read_labels(file, image).array
        return choice.picture(_jpeg(draw_preview(image, labels, mark=choice.mark, like=truth.array)))
    except Exception as error:  # as above
        log.warning("%s, %s cannot be drawn", case, choice.variant.name, exc_info=True)
        return choice.picture(None, f"The prediction cannot be drawn. {problem_of(error)}")


def _jpeg(picture: Image.Image) -> bytes:
    """Returns a picture as JPEG, made smaller if it is wider than a page."""
    if picture.width > _MAX_WIDTH:
        height = round(picture.height * _MAX_WIDTH / picture.width)
        picture = picture.resize((_MAX_WIDTH, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY, optimize=True, subsampling=0)
    return stream.getvalue()
