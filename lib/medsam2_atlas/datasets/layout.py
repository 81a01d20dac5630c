"""Layouts of data sets: where the files of a download are, and the organs that its label values or masks stand for."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.labels import organ_table

_FOLDER = "configs/datasets"
_NAME = re.compile(r"\w(?:[\w .()+-]*[\w)])?")
_MAX_NAME_BYTES = 180  # file systems allow 255; suffixes and temporary names need the rest
_MAX_VALUE = 255


def is_case_name(text: str) -> bool:
    """Returns whether a text can name a case: one file name of letters, digits and a few other characters, in any script.

    >>> is_case_name("amos_0036"), is_case_name("../amos_0036"), is_case_name("-rf")
    (True, False, False)
    """
    return bool(_NAME.fullmatch(text)) and len(text.encode()) <= _MAX_NAME_BYTES


class Numbers(BaseModel):
    """The cases of a download that are CTs, by the number at the end of their name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: int = Field(ge=0, description="lowest number of a CT")
    last: int = Field(ge=0, description="highest number of a CT")
    others: str = Field(min_length=1, description="why other cases are not used, such as `is an MRI`")


class Split(BaseModel):
    """The published references and targets of an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    references: tuple[str, ...] = Field(description="names of the cases for the atlas")
    targets: tuple[str, ...] = Field(description="names of the cases to evaluate on")


class Layout(BaseModel):
    """The layout of a data set.

    Patterns are paths without suffix, relative to one of `roots`. `{case}` stands for the name of a case, `{organ}` for the
    name of a mask.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1, description="name of the data set for people")
    source: str = Field("", description="where users download it")
    licence: str = Field("", description="its terms of use")
    roots: tuple[str, ...] = Field((".",), min_length=1, description="folders that may contain the images; the first that does")
    prefix: str = Field("", description="text before `{case}` in the names of cases")
    images: tuple[str, ...] = Field(min_length=1, description="patterns of the CTs")
    labels: tuple[str, ...] = Field((), description="patterns of the label maps, if a case has one")
    values: dict[int, str] = Field({}, description="our organ by value of the label maps")
    ignored: tuple[int | str, ...] = Field((), description="values of other structures: numbers, or ranges such as 10-16")
    masks: str = Field("", description="pattern of the masks, if a case has one per organ")
    mask_names: dict[str, tuple[str, ...]] = Field({}, description="names of each organ's mask, one of which exists")
    partial: tuple[str, ...] = Field((), description="organs that are mapped, but not annotated completely")
    numbers: Numbers | None = Field(None, description="the cases that are CTs; by default all")
    split: Split | None = Field(None, description="the published references and targets")

    @field_validator("roots", "images", "labels", "masks")
    @classmethod
    def _inside(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for path in (value,) if isinstance(value, str) else value:
            if path.startswith("/") or ".." in path.split("/") or "\0" in path:
                raise ValueError(f"{path!r} leads out of the folder")
        return value

    @field_validator("ignored")
    @classmethod
    def _ranges(cls, value: tuple[int | str, ...]) -> tuple[int | str, ...]:
        _values_of(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Layout:
        for pattern in (*self.images, *self.labels, *filter(None, [self.masks])):
            if "{case}" not in pattern:
                raise ValueError(f"the pattern {pattern!r} has no {{case}}")
        if bool(self.labels) == bool(self.masks):
            raise ValueError("give either labels with values, or masks with mask_names")
        if (bool(self.values), bool(self.mask_names)) != (bool(self.labels), bool(self.masks)):
            raise ValueError("labels need values, masks need mask_names")
        if self.masks and self.masks.rpartition("/")[2].count("{organ}") != 1:
            raise ValueError("the last part of masks needs one {organ}")
        known = {organ.name for organ in organ_table().organs}
        if unknown := sorted({*self.values.values(), *self.mask_names, *self.partial} - known):
            raise ValueError(f"{', '.join(unknown)} is not in configs/labels.yaml")
        if not all(1 <= value <= _MAX_VALUE for value in self.values) or self.ignored_values & {*self.values}:
            raise ValueError(f"values are numbers from 1 to {_MAX_VALUE}, either mapped or ignored")
        if stray := sorted({*self.partial} - {*self.values.values(), *self.mask_names}):
            raise ValueError(f"{', '.join(stray)} is partial, but not mapped")
        names = [name for given in self.mask_names.values() for name in given]
        if len({*names}) < len(names) or not all(self.mask_names.values()):
            raise ValueError("each organ of mask_names needs names of its own")
        return self

    @cached_property
    def ignored_values(self) -> frozenset[int]:
        """The values of structures that are not organs of the table."""
        return _values_of(self.ignored)

    @property
    def annotated(self) -> tuple[int, ...]:
        """The numbers of our organs that the data set annotates completely, ascending."""
        names = {*self.values.values(), *self.mask_names} - {*self.partial}
        return tuple(organ.index for organ in organ_table().organs if organ.name in names)

    @property
    def sha256(self) -> str:
        """The checksum of the settings that determine the content of a written case."""
        settings = self.model_dump(mode="json", exclude={"title", "source", "licence", "roots", "numbers", "split"})
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def layout_names() -> list[str]:
    """Returns the names of the layouts that come with the project."""
    return sorted(file.stem for file in resource(_FOLDER).glob("*.yaml"))


def read_layout(name: str) -> tuple[str, Layout]:
    """Returns a layout and its short name.

    Args:
        name: name of a layout that comes with the project, or the path of a YAML file.

    Raises:
        InputError: there is no such layout, or its file is not valid.
    """
    known = layout_names()
    if name in known:
        file = resource(_FOLDER) / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml")):
        file = Path(name)
    else:
        raise InputError(repr(name), "is not a layout.", f"Choose from {', '.join(known)}, or give a YAML file of your own.")
    return file.stem, read_config(Layout, file, "layout of a data set", "docs/datasets.md explains the keys.")


def _values_of(entries: tuple[int | str, ...]) -> frozenset[int]:
    """Returns the numbers of entries such as 3 and `10-16`."""
    found: set[int] = set()
    for entry in entries:
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", str(entry))
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 1 <= first <= last <= _MAX_VALUE:
            raise ValueError(f"{entry!r} is neither a value from 1 to {_MAX_VALUE} nor a range such as 10-16")
        found |= {*range(first, last + 1)}
    return frozenset(found)
