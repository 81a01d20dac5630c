"""Draws phantom cases by seed and number, and writes folders of them as NIfTI files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.base.files import replacing
from medsam2_atlas.base.pools import in_processes
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.demo.phantoms.patient import Patient, Phase, draw_patient
from medsam2_atlas.demo.phantoms.render import Scan, render
from medsam2_atlas.demo.phantoms.scanner import draw_orientation, draw_scan


@dataclass(frozen=True)
class PhantomCase:
    """A scanned synthetic patient.

    Attributes:
        patient: parameters of the patient.
        scan: the grid, LPS.
        orientation: orientation code of the file.
        image: the CT `[z, y, x]` in HU, float32.
        label: organ numbers `[z, y, x]`, uint8.
    """

    patient: Patient
    scan: Scan
    orientation: str
    image: np.ndarray
    label: np.ndarray

    def as_images(self) -> tuple[sitk.Image, sitk.Image]:
        """Returns image and label map with their geometry, in the orientation of the file."""
        pair = []
        for array in (self.image.astype(np.int16), self.label):
            picture = sitk.GetImageFromArray(array)
            picture.SetSpacing(self.scan.spacing)
            picture.SetOrigin(self.scan.origin)
            picture.SetDirection(self.scan.direction.ravel().tolist())
            pair.append(sitk.DICOMOrient(picture, self.orientation))
        return pair[0], pair[1]


def draw_case(seed: int, index: int, spacing: float | None = None, phase: Phase | None = None) -> PhantomCase:
    """Draws one case of a population; the same arguments always give the same case.

    Args:
        seed: the population.
        index: number of the case.
        spacing: isotropic spacing in mm; without it, spacing, tilt and file orientation are random.
        phase: the contrast phase; a random one by default. The anatomy is the same in all phases.
    """
    generator = np.random.default_rng([seed, index])
    patient = draw_patient(generator)
    patient = patient if phase is None else replace(patient, phase=phase)
    scan = draw_scan(generator, patient, spacing)
    orientation = draw_orientation(generator)
    image, label = render(patient, scan)
    return PhantomCase(patient, scan, orientation, image, label)


def write_dataset(
    out: Path,
    count: int,
    seed: int,
    *,
    spacing: float | None = None,
    hu_step: int = 1,
    workers: int = 2,
    progress: Progress = silent,
) -> None:
    """Writes cases as `images/NAME.nii.gz` and `labels/NAME.nii.gz`, with the same names in both folders.

    Args:
        out: folder to write to; created if missing.
        count: number of cases.
        seed: the population.
        spacing: isotropic spacing in mm; without it, spacings, tilts and file orientations are random.
        hu_step: HU are rounded to multiples of this; larger steps make smaller files.
        workers: number of processes.
        progress: called with the fraction completed.
    """
    for kind in ("images", "labels"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    write = partial(_write_case, out, seed, spacing, hu_step)
    for done in in_processes(workers, write, count):
        progress("phantoms", done / count)


def _write_case(out: Path, seed: int, spacing: float | None, hu_step: int, index: int) -> None:
    case = draw_case(seed, index, spacing)
    image, label = replace(case, image=np.rint(case.image / hu_step) * hu_step).as_images()
    for kind, picture in (("images", image), ("labels", label)):
        with replacing(out / kind / f"phantom-{seed}-{index:03d}.nii.gz") as part:
            sitk.WriteImage(picture, str(part), useCompression=True)
