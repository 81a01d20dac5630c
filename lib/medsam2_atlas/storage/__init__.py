"""A folder of studies: where its files lie, and a store that keeps every version of every label map."""

from medsam2_atlas.choices import FINAL
from medsam2_atlas.storage.acceptance import Person, ReviewStage
from medsam2_atlas.storage.checks import check_label, suffix_of
from medsam2_atlas.storage.entries import Image, Label, Saved
from medsam2_atlas.storage.folder import Study, StudyFolder, WorkFolder
from medsam2_atlas.storage.lineage import Version
from medsam2_atlas.storage.names import study_name, tag_name
from medsam2_atlas.storage.safely import copy_safely
from medsam2_atlas.storage.store import StudyStore
from medsam2_atlas.storage.unopened import unopened_studies

__all__ = [
    "FINAL",
    "Image",
    "Label",
    "Person",
    "ReviewStage",
    "Saved",
    "Study",
    "StudyFolder",
    "StudyStore",
    "Version",
    "WorkFolder",
    "check_label",
    "copy_safely",
    "study_name",
    "suffix_of",
    "tag_name",
    "unopened_studies",
]
