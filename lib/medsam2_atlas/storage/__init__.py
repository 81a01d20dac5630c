"""A studies folder: its layout, and a store that keeps every version of every label map."""

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.storage.acceptance import MAX_COMMENT, Person, ReviewStage, drawer_of, may_judge, same_person
from medsam2_atlas.storage.assignments import Assignment, Assignments
from medsam2_atlas.storage.checks import check_label, suffix_of
from medsam2_atlas.storage.drafts import Draft, Drafts, studies_with_drafts
from medsam2_atlas.storage.entries import Image, Label, Saved
from medsam2_atlas.storage.erased import Erased
from medsam2_atlas.storage.fingerprints import Fingerprints, same_image_as
from medsam2_atlas.storage.folder import CLAIMS, FIGURES, WORK_FOLDER, Study, StudyFolder, WorkFolder, stamp
from medsam2_atlas.storage.lineage import Lineage, Version, time_of
from medsam2_atlas.storage.links import LINK_PROBLEM, LINK_REMEDY, Roots
from medsam2_atlas.storage.lock import FolderLock
from medsam2_atlas.storage.names import study_name, tag_name
from medsam2_atlas.storage.safely import copy_safely, flush
from medsam2_atlas.storage.scan import label_files
from medsam2_atlas.storage.store import StudyStore
from medsam2_atlas.storage.unopened import unopened_studies

__all__ = [
    "CLAIMS",
    "FIGURES",
    "FINAL",
    "LINK_PROBLEM",
    "LINK_REMEDY",
    "MAX_COMMENT",
    "WORK_FOLDER",
    "Assignment",
    "Assignments",
    "Draft",
    "Drafts",
    "Erased",
    "Fingerprints",
    "FolderLock",
    "Image",
    "Label",
    "Lineage",
    "Person",
    "ReviewStage",
    "Roots",
    "Saved",
    "Study",
    "StudyFolder",
    "StudyStore",
    "Version",
    "WorkFolder",
    "check_label",
    "copy_safely",
    "drawer_of",
    "flush",
    "label_files",
    "may_judge",
    "same_image_as",
    "same_person",
    "stamp",
    "studies_with_drafts",
    "study_name",
    "suffix_of",
    "tag_name",
    "time_of",
    "unopened_studies",
]
