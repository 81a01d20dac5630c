"""Maps the labels of a team's own model to organs: by `organs.yaml`, or by the label names in the model's metadata.

`organs.yaml` is in the model's folder or, if that folder is read-only, next to it as `FOLDER.organs.yaml`. It maps label
values, or the model's label names, to organ names of `configs/labels.yaml`:

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
    """The content of `organs.yaml`: organ names by the model's label values or label names."""


@dataclass(frozen=True)
class OrganLabels:
    """The organs of a model's labels.

    Attributes:
        organs: organ numbers by the model's label values.
        left_out: names of the labels that are not organs of the table.
    """

    organs: Mapping[int, int]
    left_out: tuple[str, ...] = ()

    @property
    def known(self) -> list[int]:
        """The numbers of the organs that the model segments."""
        return sorted(set(self.organs.values()))

    def known_names(self) -> list[str]:
        """Returns the names of the organs that the model segments."""
        return [organ_table()[k].name for k in self.known]

    def requested(self, organs: Sequence[int], name: str) -> list[int]:
        """Returns the requested organs that the model segments.

        Args:
            organs: numbers of the requested organs.
            name: name of the model, for messages.

        Raises:
            InputError: if it segments none of them. An empty label map would mean that the patient has none of these organs.
        """
        found = [organ for organ in organs if organ in self.known]
        if not found:
            names = ", ".join(organ_table()[k].name for k in organs)
            known = ", ".join(self.known_names())
            raise InputError(name, f"segments none of these organs: {names}.", f"Choose from: {known}.")
        return found

    def translated(self, labels: np.ndarray) -> np.ndarray:
        """Converts the model's label values to organ numbers.

        Args:
            labels: label values `[z, y, x]`, integers of any sign.

        Returns:
            Organ numbers of the same shape, uint8; 0 for values without an organ.

        >>> OrganLabels({3: 6}).translated(np.array([[[0, 3, 7]]])).tolist()
        [[[0, 6, 0]]]
        """
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
        folder: folder of the model.
        names: label names by value in the model's metadata, without the background; may be empty.
        described: the metadata file, for messages.

    Raises:
        InputError: if `organs.yaml` is not valid or names an unknown label or organ, or no label is an organ of the table.
    """
    file = organs_file(folder)
    organs = _named(names) if file is None else _mapped(file, names, described)
    if not organs:
        found = f"names no organ of the organ table: {listed(list(names.values()))}." if names else "names no labels."
        raise InputError(described if file is None else file, found if file is None else "names no organ.", _EXAMPLE)
    return OrganLabels(organs, tuple(name for value, name in names.items() if value not in organs))


def _named(names: Mapping[int, str]) -> dict[int, int]:
    """Returns the organ numbers of the label names that `configs/segment_names.yaml` recognises, by label value."""
    return {value: organ for value, name in names.items() if (organ := organ_named(name))}


def _mapped(file: Path, names: Mapping[int, str], described: Path) -> dict[int, int]:
    """Returns the organ numbers that `organs.yaml` lists, by label value."""
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
