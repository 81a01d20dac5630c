"""Phantom cases by seed and number, alone or as a folder of NIfTI files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.phantoms.patient import Patient, draw_patient
from medsam2_atlas.phantoms.render import Scan, render
from medsam2_atlas.phantoms.scanner import draw_orientation, draw_scan


@dataclass(frozen=True)
class PhantomCase:
    """A scanned synthetic patient: image (float32, HU) and label map (uint8), both `[z, y, x]` on the scan's LPS grid."""

    patient: Patient
    scan: Scan
    orientation: str
    image: np.ndarray
    label: np.ndarray

    def as_images(self) -> tuple[sitk.Image, sitk.Image]:
        """Image and label map with their geometry, in the orientation in which the file is to be stored."""
        pair = []
        for array in (self.image.astype(np.int16), self.label):
            picture = sitk.GetImageFromArray(array)
            picture.SetSpacing(self.scan.spacing)
            picture.SetOrigin(self.scan.origin)
            picture.SetDirection(self.scan.direction.ravel().tolist())
            pair.append(sitk.DICOMOrient(picture, self.orientation))
        return pair[0], pair[1]


def draw_case(seed: int, index: int, spacing: float | None = None) -> PhantomCase:
    """Case `index` of the population `seed`; the same arguments give the same case, whatever else was drawn."""
    generator = np.random.default_rng([seed, index])
    patient = draw_patient(generator)
    scan = draw_scan(generator, patient, spacing)
    orientation = draw_orientation(generator)
    image, label = render(patient, scan)
    return PhantomCase(patient, scan, orientation, image, label)
