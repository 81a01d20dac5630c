"""Small pictures of cases for the worklist."""

from __future__ import annotations

from pathlib import Path

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.storage import FINAL
from medsam2_atlas.studies.pictures import study_picture


class CasePictures:
    """The pictures of a server's cases."""

    def __init__(self, datastore: StudyDatastore, models: tuple[str, ...], hu: HuRule) -> None:
        """Draws nothing yet.

        Args:
            datastore: the studies.
            models: names of the models. A picture shows the final label map, or else the prediction of the first that has one.
            hu: conversion of the CT's values to HU.
        """
        self._datastore, self._models, self._hu = datastore, models, hu

    def file(self, study: str) -> Path:
        """Returns the file of a picture (PNG).

        Raises:
            NotFoundError: the case is unknown.
        """
        return study_picture(self._datastore.store, study, (FINAL, *self._models), self._datastore.get_image_uri, self._hu)
