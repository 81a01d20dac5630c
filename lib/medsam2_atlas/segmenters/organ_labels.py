"""Maps the labels of a team's own model to organs: by `organs.yaml`, or by the names in the model's own description.

`organs.yaml` lies in the model's folder, or beside it as `FOLDER.organs.yaml`, for folders that nobody may write into. It maps
label values, or the model's names of labels, to names of `configs/labels.yaml`:

    1: spleen
    2: right_kidney
    Left Kideny: left_kidney
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import RootModel

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.segment_names import listed, organ_named, plain

ORGANS_FILE = "organs.yaml"
_EXAMPLE = f"Write {ORGANS_FILE} into the folder, such as {{1: spleen, 2: right_kidney}}, with names of configs/labels.yaml."


class OrganNames(RootModel[dict[int | str, str]]):
    """Content of `organs.yaml`: names of organs, by the model's label values or names of labels."""


@dataclass(frozen=True)
class OrganLabels:
    """Organ numbers of the table by the model's label values, and the names of labels that are no organs of the table."""

    organs: Mapping[int, int]
    left_out: tuple[str, ...] = ()

    @property
    def known(self) -> list[int]:
        """Returns the numbers of the organs that the model knows."""
        return sorted(set(self.organs.values()))

    def known_names(self) -> list[str]:
        """Returns their names."""
        return [organ_table()[k].name for k in self.known]

    def requested(self, organs: Sequence[int], name: str) -> list[int]:
        """Returns those of the requested organs that the model knows.

        Args:
            organs: numbers.
            name: of the model, for messages.

        Raises:
            InputError: it knows none of them. An empty label map would say that the patient has none.
        """
        found = [organ for organ in organs if organ in self.known]
        if not found:
            asked = ", ".join(organ_table()[k].name for k in organs)
            raise InputError(name, f"knows none of these organs: {asked}.", f"It knows: {', '.join(self.known_names())}.")
        return found

    def translated(self, labels: np.ndarray) -> np.ndarray:
        """Returns organ numbers, uint8, for the model's label values, whole numbers of any sign; 0 for all other values."""
        found = np.zeros(labels.shape, np.uint8)
        for value, organ in self.organs.items():
            found[labels == value] = organ
        return found


def organs_file(folder: Path) -> Path | None:
    """Returns the `organs.yaml` of a model's folder; None if there is none."""
    places = (folder / ORGANS_FILE, folder.with_name(f"{folder.name}.{ORGANS_FILE}"))
    return next((file for file in places if file.is_file()), None)


def organ_labels(folder: Path, names: Mapping[int, str], described: Path) -> OrganLabels:
    """Returns the organs of a model's labels.

    Args:
        folder: of the model.
        names: of its labels by their values, without the background, as the model describes them; may be empty.
        described: the file that they come from, for messages.

    Raises:
        InputError: `organs.yaml` is not valid or names an unknown label or organ, or no label is an organ of the table.
    """
    file = organs_file(folder)
    organs = _named(names) if file is None else _mapped(file, names, described)
    if not organs:
        found = f"names no organ of the organ table: {listed(list(names.values()))}." if names else "names no labels."
        raise InputError(described if file is None else file, found if file is None else "names no organ.", _EXAMPLE)
    return OrganLabels(organs, tuple(name for value, name in names.items() if value not in organs))


def _named(names: Mapping[int, str]) -> dict[int, int]:
    """Returns the organs of labels that are named as segments of other programs are."""
    return {value: organ for value, name in names.items() if (organ := organ_named(name))}


def _mapped(file: Path, names: Mapping[int, str], described: Path) -> dict[int, int]:
    """Returns the organs that `organs.yaml` names."""
    values = {plain(name): value for value, name in names.items()}
    found = {}
    for label, organ in read_config(OrganNames, file, "map of labels to organs", _EXAMPLE).root.items():
        text = str(label).strip()
        value = int(text) if text.isdecimal() else values.get(plain(text))
        if value is None or (names and value not in names):
            known = listed([f"{value} {name}" for value, name in names.items()]) or "none, so use label values"
            raise InputError(file, f"names the label {text!r}, which the model lacks.", f"{described.name} has: {known}.")
        try:
            (found[value],) = organ_table().select([organ])
        except InputError as error:
            raise InputError(file, f"names {organ!r} for the label {text!r}: no organ of the table.", error.remedy) from error
    return found
