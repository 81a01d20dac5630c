"""`dataset.json`: the record of a prepared data set, and the organs that it annotates."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medsam2_atlas.base.configuration import problems_of
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import text_of, write_json
from medsam2_atlas.base.json_text import from_json
from medsam2_atlas.datasets.layout import is_case_name
from medsam2_atlas.datasets.roles import Role
from medsam2_atlas.imaging.labels import organ_table

RECORD = "dataset.json"
FORMAT = "medsam2_atlas dataset 1"
"""The value of `format` in the record. nnU-Net and AMOS22 use the same file name for records of their own."""
FOLDERS: dict[Role, str] = {"reference": "references", "target": "targets"}
"""The folder of each role in a prepared data set; each has `images/` and `labels/`."""

_LEVELS = 3
_REMEDY = "Prepare the data set again into another folder."


class SourceFile(BaseModel):
    """A file of the download.

    Attributes:
        file: its path in the folder of the download.
        sha256: its checksum.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class CaseRecord(BaseModel):
    """A case of a prepared data set.

    Attributes:
        name: the name of the case; its files are `NAME.nii.gz`.
        role: whether it is a reference or a target.
        organs: the names of the organs in its label map.
        image: the file of the CT.
        labels: the label map, or the masks.
        voxels: the hash of the CT's voxels in LPS orientation; the same image under two names has the same hash.
        hu_offset: the number in HU that was added to the file's values.
        remarks: corrections that were made while the files were read, as sentences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Role
    organs: tuple[str, ...]
    image: SourceFile
    labels: tuple[SourceFile, ...]
    voxels: str
    hu_offset: float = 0.0
    remarks: tuple[str, ...] = ()

    @field_validator("name")
    @classmethod
    def _one_file_name(cls, value: str) -> str:
        if not is_case_name(value):  # names become paths of files that are replaced or removed
            raise ValueError("not the name of a case")
        return value

    def paths(self, out: Path) -> tuple[Path, Path]:
        """Returns the paths of the image and the label map. out: the folder of the prepared data set."""
        return paths_of(out, self.role, self.name)


class Dataset(BaseModel):
    """A prepared data set.

    Attributes:
        format: identifies the record.
        version: the version of the program that wrote it.
        layout: the name of its layout.
        title: the name of the data set for people.
        licence: its terms of use.
        layout_sha256: the checksum of the layout's settings that determine the content of cases.
        hu: the rule by which values became HU.
        annotated: the names of the organs that the data set annotates completely. A label map may contain others, but their
            absence means nothing.
        cases: the cases, references first.
        left_out: why cases were left out, by name.
        complete: whether all cases were processed; False while the command runs, and after it was interrupted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["medsam2_atlas dataset 1"] = "medsam2_atlas dataset 1"
    version: str
    layout: str
    title: str
    licence: str = ""
    layout_sha256: str
    hu: str
    annotated: tuple[str, ...]
    cases: tuple[CaseRecord, ...]
    left_out: dict[str, str] = {}
    complete: bool

    @field_validator("annotated")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := {*value} - {organ.name for organ in organ_table().organs}:
            raise ValueError(f"{', '.join(sorted(unknown))} is not in the organ table")
        return value

    @property
    def annotated_organs(self) -> tuple[int, ...]:
        """The numbers of the organs that the data set annotates completely, ascending."""
        return tuple(organ.index for organ in organ_table().organs if organ.name in self.annotated)

    def of_role(self, role: Role) -> tuple[CaseRecord, ...]:
        """Returns the cases of a role."""
        return tuple(case for case in self.cases if case.role == role)

    def write(self, out: Path) -> None:
        """Writes the record into the folder of the prepared data set, in one step."""
        write_json(self.model_dump(mode="json"), out / RECORD)


def paths_of(out: Path, role: Role, name: str) -> tuple[Path, Path]:
    """Returns the paths of a case's image and label map. out: the folder of the prepared data set."""
    folder = out / FOLDERS[role]
    return folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"


def read_dataset(folder: Path) -> Dataset | None:
    """Returns the record of the prepared data set that a folder belongs to; None if it belongs to none.

    Args:
        folder: the folder of label maps or images. The record is in this folder or up to two folders above it.

    Raises:
        InputError: the record is damaged.
    """
    place = folder.absolute()
    for level in [place, *place.parents][:_LEVELS]:
        found = read_record(level / RECORD)
        if found is not None:
            return found
    return None


def read_record(file: Path) -> Dataset | None:
    """Returns the record in a file; None if the file does not exist, or is a record of another program.

    Raises:
        InputError: the record is damaged.
    """
    try:
        text = text_of(file)
    except (OSError, UnicodeDecodeError):
        return None
    try:
        content = from_json(text)
    except ValueError as error:
        if FORMAT in text:
            raise InputError(file, f"is not valid JSON ({error}).", _REMEDY) from error
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    try:
        return Dataset.model_validate(content)
    except ValidationError as error:
        raise InputError(file, f"is not a record of a data set: {problems_of(error)}.", _REMEDY) from error
