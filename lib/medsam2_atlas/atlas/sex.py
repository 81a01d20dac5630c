"""The sex of a reference: it determines whether organ 15 of its label map is a prostate or a uterus."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import get_args

import numpy as np

from medsam2_atlas.atlas.config import SexConfig, atlas_config
from medsam2_atlas.base.choices import Sex
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.imaging.labels import organ_table


def guessed_sex(shares: Mapping[int, CroppedMap], config: SexConfig | None = None) -> Sex | None:
    """Guesses the sex from the position of organ 15: a prostate lies below the bladder, a uterus behind and above it.

    Args:
        shares: the organs of a label map by number, on a grid whose z axis points upwards: the label map's own, or the common
            space's for atlases of earlier versions.
        config: the limits; those of `configs/atlas.yaml` by default.

    Returns:
        The sex; None if the label map lacks organ 15 or the bladder, or if the position is ambiguous.
    """
    config, table = config or atlas_config().sex, organ_table()
    numbers = {organ.name: organ.index for organ in table.organs}
    organ, bladder = (shares.get(numbers[name]) for name in ("prostate_uterus", "bladder"))
    if organ is None or bladder is None or not organ.values.any() or not bladder.values.any():
        return None
    filled = np.cumsum(bladder.values.sum((1, 2), dtype=np.int64))
    lower_end = bladder.lower[0] + int(np.searchsorted(filled, config.bladder_end * filled[-1]))
    by_slice = organ.values.sum((1, 2), dtype=np.int64)
    above = float(by_slice[max(0, lower_end - organ.lower[0]) :].sum() / by_slice.sum())
    if above >= config.min_uterus:
        return "female"
    return "male" if above <= config.max_prostate else None


def read_sexes(file: Path, names: Collection[str]) -> dict[str, Sex]:
    """Reads the sexes of references from a CSV file with the columns `name` and `sex`; empty if the file does not exist.

    Args:
        file: the file; the sex is `female` or `male`.
        names: the names of the references; a line with another name is an error, because it is probably misspelt.

    Raises:
        InputError: the file cannot be read, or a line is wrong.
    """
    remedy = "Write the columns name,sex with one line per reference: its file name without suffix, then female or male."
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(file, f"cannot be read ({error}).", remedy) from error
    sexes: dict[str, Sex] = {}
    for number, line in enumerate(lines, 2):
        name, sex = (line.get("name") or "").strip(), (line.get("sex") or "").strip().lower()
        if name not in names or sex not in get_args(Sex):
            raise InputError(file, f"line {number} has the name {name!r} and the sex {sex!r}.", remedy)
        sexes[name] = sex  # type: ignore[assignment]
    return sexes
