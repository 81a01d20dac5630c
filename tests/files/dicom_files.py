"""Writes DICOM series of the CT in `kind.py`, also unusual and damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from files.kind import ORIGIN, Writer, image
from series_files import Change, compress, write_enhanced, write_series


def series(change: Change | None = None) -> Writer:
    """Returns a writer of a folder of single-frame files. change: alters each data set, given its number, before saving."""

    def write(folder: Path) -> Path:
        write_series(folder, image(), change)
        return folder

    return write


def enhanced(change: Change | None = None, files: int = 1) -> Writer:
    """Returns a writer of a folder of multi-frame files with frames out of order. change: alters each file's data set."""

    def write(folder: Path) -> Path:
        write_enhanced(folder, image(), change, order=[5, 0, 11, 3, 8, 1, 7, 2, 10, 4, 9, 6], files=files)
        return folder

    return write


def placed(height: Callable[[int], str]) -> Writer:
    """Returns a writer of a series whose slice n has the z position `height(n)` in mm, as text for its header."""

    def change(ds: Dataset, n: int) -> None:
        ds.ImagePositionPatient = [str(ORIGIN[0]), str(ORIGIN[1]), height(n)]

    return series(change)


def nested(folder: Path) -> Path:
    for n, file in enumerate(write_series(folder, image())):
        target = folder / "PAT1" / f"part{n % 3}" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    return folder


def with_index(folder: Path) -> Path:
    medium = FileSet()
    for file in write_series(folder / "source", image()):
        medium.add(file)
    medium.write(folder / "medium")
    return folder / "medium"


def without_preamble(folder: Path) -> Path:
    for file in write_series(folder, image()):
        file.write_bytes(file.read_bytes()[132:])
    return folder


def without_slice(folder: Path) -> Path:
    write_series(folder, image())[4].unlink()
    return folder


def twice(folder: Path) -> Path:
    for name in ("a", "b"):
        write_series(folder, image(), name=name)
    return folder


def own_rule(ds: Dataset, n: int) -> None:
    """Gives each slice its own rescale intercept, and every second slice unsigned values."""
    stored = np.frombuffer(ds.PixelData, "<i2").astype(np.int32) + 1000 * n
    ds.RescaleIntercept, ds.PixelRepresentation = -1024 - 1000 * n, n % 2 == 0
    ds.PixelData = stored.astype("<i2" if n % 2 == 0 else "<u2").tobytes()


def own_rule_per_frame(ds: Dataset, n: int) -> None:
    stored = np.frombuffer(ds.PixelData, "<i2").reshape(ds.NumberOfFrames, -1) + np.arange(ds.NumberOfFrames)[:, None]
    for k, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        rule = Dataset()
        rule.RescaleIntercept, rule.RescaleSlope, rule.RescaleType = -1024 - k, 1, "HU"
        groups.PixelValueTransformationSequence = [rule]
    del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    ds.PixelData = stored.astype("<i2").tobytes()


def phases(ds: Dataset, n: int) -> None:
    for k, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups.FrameContentSequence[0].TemporalPositionIndex = 1 + k % 2


def tilted(ds: Dataset, n: int) -> None:
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    ds.ImagePositionPatient = [x, y + n, z]


def skewed(ds: Dataset, n: int) -> None:
    ds.ImageOrientationPatient = [1, 0, 0, 0.05, 0.99875, 0]


def slightly_skewed(ds: Dataset, n: int) -> None:
    ds.ImageOrientationPatient = [1, 0, 0, 0.001, 1, 0]


def in_micrometres(ds: Dataset, n: int) -> None:
    ds.PixelSpacing = [2500, 2000]


def run_length_encoded(ds: Dataset, n: int) -> None:
    assert isinstance(ds, pydicom.FileDataset)
    ds.compress("1.2.840.10008.1.2.5")


def without_slope(ds: Dataset, n: int) -> None:
    ds.RescaleSlope = 0


def compressed(compressor: str) -> Writer:
    """Returns a writer of a folder of single-frame files with losslessly compressed pixels; see `series_files.compress`."""

    def write(folder: Path) -> Path:
        for file in write_series(folder, image()):
            compress(file, compressor)
        return folder

    return write
