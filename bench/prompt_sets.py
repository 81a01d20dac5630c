"""The sets of annotated CTs of `bench/prompts.py`: their files, and the references of each target."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from medsam2_atlas.atlas import ReferenceFiles, find_references
from medsam2_atlas.demo.phantoms import ENHANCEMENT, Phase, deformed, draw_case, painted, write_dataset
from medsam2_atlas.evaluation import evaluation_config
from medsam2_atlas.imaging.masks import without_specks
from medsam2_atlas.imaging.volume import Volume, read_labels, read_volume, write_volume

REAL = Path(__file__).resolve().parents[2] / "shared" / "ct"
_LIVER, _ABOVE_LIVER_MM = 6, 40.0
_SPACING = 3.0
_PAIR = ("whole_abdomen_3mm", "cropped_trunk")
_PHASES: tuple[Phase, ...] = get_args(Phase)
_GENERATED = ("generated-r0", "generated-r1", "generated-r2"), ("generated-t0", "generated-t1")
_ANATOMIES = ("amos_0013", "tsd_s0327", "whole_abdomen_3mm"), ("tsd_s0328", "tsd_s0004")
"""The subjects of the set `phases`, references and targets: generated patients, and real label maps."""
_REFERENCE_COUNTS = (1, 3)
_ENHANCING = {1: "spleen", 2: "kidney", 3: "kidney", 6: "liver", 8: "aorta", 9: "vein", 10: "pancreas", 11: "adrenal",
              12: "adrenal"}  # fmt: skip
"""The organs of real CTs that take up contrast, and their tissues in `ENHANCEMENT`."""
_EDGE_MM = 1.0
"""The standard deviation of the Gaussian that smooths painted contrast, as a scanner does."""


@dataclass(frozen=True)
class Task:
    """A target and its references.

    Attributes:
        name: the name of the target, unique in its set.
        target: the files of the target.
        references: the files of its references.
        atlas: the name of their atlas; tasks with the same references share it.
    """

    name: str
    target: ReferenceFiles
    references: tuple[ReferenceFiles, ...]
    atlas: str


def phantoms(folder: Path, count: int) -> None:
    """Writes generated patients with 3 mm voxels to a folder."""
    write_dataset(folder, count, 512, spacing=_SPACING)


def anatomy(folder: Path, variants: int) -> None:
    """Writes synthetic CTs with real anatomy to a folder: deformed variants of all label maps in `REAL`."""
    for number, file in enumerate(_label_maps()):
        for variant in range(variants):
            generator = np.random.default_rng([77, number, variant])
            labels = _abdomen(deformed(read_labels(file), generator))
            _write(folder, f"{_subject(file)}-{variant}", painted(labels, generator), labels)


def pair(folder: Path) -> None:
    """Links the two real annotated CTs into a folder."""
    for kind, file in (("images", "ct.nii.gz"), ("labels", "label.nii.gz")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in _PAIR:
            (folder / kind / f"{name}.nii.gz").symlink_to(REAL / name / file)


def phases(folder: Path) -> None:
    """Writes patients in each contrast phase to a folder: generated ones and, if `REAL` exists, real label maps and CTs.

    Both real CTs are without contrast, so the other two phases are painted into their labelled organs.
    """
    for number, name in enumerate(itertools.chain(*_GENERATED)):
        for phase in _PHASES:
            case = draw_case(1701, number, _SPACING, phase)
            for kind, image in zip(("images", "labels"), case.as_images(), strict=True):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(image, str(folder / kind / f"{_in_phase(name, phase)}.nii.gz"), useCompression=True)
    if not REAL.is_dir():
        return
    files = {_subject(file): file for file in _label_maps()}
    for number, name in enumerate(itertools.chain(*_ANATOMIES)):
        labels = _abdomen(deformed(read_labels(files[name]), np.random.default_rng([78, number])))
        for phase in _PHASES:
            generator = np.random.default_rng([79, number])
            _write(folder, _in_phase(name, phase), painted(labels, generator, phase), labels)
    for name in _PAIR:
        image, labels = read_volume(REAL / name / "ct.nii.gz"), read_labels(REAL / name / "label.nii.gz")
        for phase in _PHASES:
            _write(folder, _in_phase(name, phase), _enhanced(image, labels, phase), labels)


def _enhanced(image: Volume, labels: Volume, phase: Phase) -> Volume:
    """Returns a CT without contrast whose labelled organs have the contrast of a phase."""
    added = np.zeros(image.array.shape, np.float32)
    for organ, tissue in _ENHANCING.items():
        added[labels.array == organ] = ENHANCEMENT[phase][tissue] - ENHANCEMENT["native"][tissue]
    soft = ndimage.gaussian_filter(added, _EDGE_MM / np.array(image.geometry.spacing[::-1]))
    return image.with_array((image.array + soft).astype(np.float32))


MAKERS: dict[str, Callable[..., None]] = {"phantoms": phantoms, "anatomy": anatomy, "pair": pair, "phases": phases}
"""The functions that write the sets, by name."""
NEED_REAL = ("anatomy", "pair")
"""The sets that consist of real label maps or CTs only."""


def tasks_of(kind: str, folder: Path) -> list[Task]:
    """Returns the tasks of a set.

    In `phases`, the atlas of a target consists of one or three references in another phase. In all other sets, the references
    of a target are all other subjects.

    Args:
        kind: the name of the set; another name means a folder of the user.
        folder: the folder of the set.
    """
    files = {f.name: f for f in find_references(folder)}
    if kind == "phases":
        return _phase_tasks(files)
    tasks = []
    for name, target in files.items():
        others = tuple(f for f in files.values() if subject_of(f.name) != subject_of(name))
        tasks.append(Task(name, target, others, subject_of(name)))
    return tasks


def _phase_tasks(files: dict[str, ReferenceFiles]) -> list[Task]:
    tasks = []
    for references, targets in (_GENERATED, _ANATOMIES, (_PAIR[:1], _PAIR[1:]), (_PAIR[1:], _PAIR[:1])):
        if _in_phase(targets[0], _PHASES[0]) not in files:
            continue
        for theirs, own in itertools.permutations(_PHASES, 2):
            for count in {min(count, len(references)) for count in _REFERENCE_COUNTS}:
                chosen = tuple(files[_in_phase(name, theirs)] for name in references[:count])
                atlas = f"{references[0]}-{theirs.replace(' ', '_')}-{count}"
                for target in targets:
                    name = _in_phase(target, own)
                    tasks.append(Task(f"{name} by {count} {theirs}", files[name], chosen, atlas))
    return tasks


def _in_phase(name: str, phase: Phase) -> str:
    return f"{name}-{phase.replace(' ', '_')}"


def subject_of(name: str) -> str:
    """Returns the subject of a target; variants of one anatomy have the same subject and are not references for each other."""
    head, _, tail = name.split(" by ")[0].rpartition("-")
    variant = (tail.isdigit() and len(tail) == 1) or tail in {phase.replace(" ", "_") for phase in _PHASES}
    return head if variant else name.split(" by ")[0]


def chosen(tasks: Sequence[Task], words: str) -> list[Task]:
    """Returns the tasks whose names contain one of some comma-separated words; all tasks if there is no word."""
    parts = [word for word in words.split(",") if word]
    return [task for task in tasks if not parts or any(part in task.name for part in parts)]


def _label_maps() -> list[Path]:
    """Returns the real label maps, then the reference models, so that the seeds of the former do not depend on the latter."""
    return [
        *sorted((REAL / "label_maps").glob("*.nii.gz")),
        *sorted(REAL.glob("whole*/label.nii.gz")),
        *sorted((REAL / "reference_models").glob("*.nii.gz")),
    ]


def _subject(file: Path) -> str:
    return file.parent.name if file.name == "label.nii.gz" else file.name.removesuffix(".nii.gz")


def _write(folder: Path, name: str, image: Volume, labels: Volume) -> None:
    for kind, volume in (("images", image), ("labels", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_volume(volume, folder / kind / f"{name}.nii.gz")


def _abdomen(labels: Volume) -> Volume:
    """Returns a label map without stray voxels and without the slices far above the liver: the synthetic body has no thorax."""
    array = without_specks(labels.array, evaluation_config().min_piece_share)
    liver = np.flatnonzero((array == _LIVER).any((1, 2)))
    stop = int(liver[-1]) + round(_ABOVE_LIVER_MM / labels.geometry.spacing[2])
    grid = replace(labels.geometry, size=(*labels.geometry.size[:2], min(stop, len(array))))
    return Volume(array[:stop], grid, grid, labels.source)
