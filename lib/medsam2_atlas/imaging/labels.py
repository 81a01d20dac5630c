"""The organ table: number, name, colour, published threshold and enlargement of each organ."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from medsam2_atlas.base.configuration import OldKeys, read_config
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource

_OLD_KEYS: OldKeys = {"organs.*.threshold": "organs.*.published_threshold"}


class Organ(BaseModel):
    """One organ of the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=1, le=255, description="value in label maps")
    name: str = Field(pattern=r"^[a-z0-9_]+$", description="name in reports, options and viewers")
    display: str = Field(description="name for people")
    colour: tuple[int, int, int] = Field(description="red, green, blue, 0..255")
    published_threshold: float = Field(
        ge=0, lt=1, description="score above which a voxel is in the prompting region, as published"
    )
    code: str = Field("", description="code of the organ, as SCHEME:VALUE, such as SCT:10200004 (SNOMED CT)")
    code_meaning: str = Field("", description="the meaning of the code, in English")
    enlarge_z: bool = Field(description="whether strategy D lengthens the z-range")


class OrganTable(BaseModel):
    """The table of all organs, in the order of their numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    organs: tuple[Organ, ...]

    def __getitem__(self, index: int) -> Organ:
        return {organ.index: organ for organ in self.organs}[index]

    @property
    def indices(self) -> list[int]:
        """The numbers of all organs in label maps."""
        return [organ.index for organ in self.organs]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The numbers of each `left_…` organ and its `right_…` counterpart."""
        by_name = {organ.name: organ.index for organ in self.organs}
        sides = [(name, name.replace("left_", "right_", 1)) for name in by_name if name.startswith("left_")]
        return [(by_name[left], by_name[right]) for left, right in sides if right in by_name]

    def select(self, names: Iterable[str]) -> list[int]:
        """Returns the numbers of organs in ascending order; all organs if no names are given.

        Args:
            names: names of organs, or their numbers as text.

        Raises:
            InputError: a name is not in the table.
        """
        chosen = []
        by_name = {organ.name: organ.index for organ in self.organs} | {str(i): i for i in self.indices}
        for name in names:
            key = name.strip().lower().replace(" ", "_")
            if key not in by_name:
                known = ", ".join(organ.name for organ in self.organs)
                raise InputError(name, "is not an organ of the table.", f"Choose from: {known}.")
            chosen.append(by_name[key])
        return sorted(set(chosen)) or self.indices

    def check(self, file: str | Path, values: Iterable[int], *, empty: bool = False) -> None:
        """Checks that a label map contains only organs of the table.

        Args:
            file: the label map, for the message.
            values: the values in the label map.
            empty: whether it may contain no organ.

        Raises:
            InputError: the label map contains no organ, or values that are not in the table.
        """
        found = {int(value) for value in values} - {0}
        if strange := sorted(found - {*self.indices}):
            raise InputError(file, f"contains labels {strange} that are not in the organ table.", "Renumber them.")
        if not found and not empty:
            raise InputError(file, "is empty: it contains no organ.", "Label at least one organ.")


@read_once
def organ_table(file: Path | None = None) -> OrganTable:
    """Returns the table in `configs/labels.yaml`, or in another file.

    Raises:
        InputError: the file does not contain a valid table.
    """
    path = file or resource("configs/labels.yaml")
    return read_config(OrganTable, path, "organ table", "Compare it with configs/labels.yaml.", old_keys=_OLD_KEYS)
