"""Scores the label maps of one tag against those of another: Dice, NSD and HD95 per organ, by MONAI's metrics."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from medsam2_atlas.base.errors import InputError, problem_of
from medsam2_atlas.base.files import write_json
from medsam2_atlas.evaluation import OrganScore, evaluation_config, mean_scores, rounded_mean, score_files
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.segmenters.registry import models
from medsam2_atlas.storage import FINAL, WorkFolder
from tasks import replies
from tasks.finals import usable_label

log = logging.getLogger(__name__)


class OrganScoring(ScoringMethod):
    """A scoring method that compares the label maps of tag `y_pred` with those of tag `y`, the ground truth.

    The defaults are `y` = `final` and `y_pred` = `medsam2_atlas`. Organs that are missing in both label maps have no score;
    organs that are missing in `y` count as not annotated.
    """

    def __init__(self, work: WorkFolder) -> None:
        tolerance = evaluation_config().nsd_tolerance_mm
        super().__init__(f"Dice, NSD at {tolerance:g} mm and HD95 per organ between the label maps of two tags (y, y_pred)")
        self._work = work

    def info(self) -> dict[str, Any]:
        """Returns MONAI Label's description of the method, with the mean scores of the last run for each pair of tags."""
        results: dict[str, Any] = {}
        for file in sorted((self._work.path / "scores").glob("*.json")):
            try:
                results[file.stem] = json.loads(file.read_text(encoding="utf-8"))["mean"]
            except (OSError, ValueError, KeyError, TypeError) as error:  # the next run replaces the file
                results[file.stem] = {"problem": f"cannot be read ({error})."}
        return {"description": self.description, "results": results}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Returns the scores of each study and their means.

        They are also written to the work folder, because MONAI Label only logs the result of a background run.

        Raises:
            InputError: a tag is invalid.
        """
        truth, predicted = (_tag(request, key, default) for key, default in (("y", FINAL), ("y_pred", models()[0].tag)))
        table = organ_table()
        studies: dict[str, Any] = {}
        scores: list[dict[int, OrganScore]] = []
        for study in sorted(datastore.list_images()):
            try:
                files = [usable_label(datastore, study, tag) for tag in (truth, predicted)]
                if files[0] is None or files[1] is None:
                    continue
                found = score_files(files[0], files[1], partial(datastore.get_image_uri, study))
            except Exception as error:  # noqa: BLE001 - one bad file must not hide the scores of the other studies
                studies[study] = {"problem": problem_of(error)}
                log.warning("%s cannot be scored: %s", study, error)
                continue
            scores.append(found)
            studies[study] = {table[k].name: score.as_dict() for k, score in found.items()}
            log.info("%s: mean Dice %.3f", study, rounded_mean(score.dice for score in found.values()))
        known = {*datastore.list_images()}  # a study may have been erased meanwhile
        studies = {study: found for study, found in studies.items() if study in known}
        result = {"y": truth, "y_pred": predicted, "studies": studies, "mean": mean_scores(scores)}
        write_json(result, self._work.folder("scores") / f"{predicted}-against-{truth}.json")
        return result


def _tag(request: dict[str, Any], key: str, default: str) -> str:
    """Returns a tag in a request, or the default."""
    tag = replies.text(request, key) or default
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", tag):
        raise InputError(tag, f"cannot be a label tag ({key}).", "Tags consist of letters, digits, `_`, `-` and `.`.")
    return tag
