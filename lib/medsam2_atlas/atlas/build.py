"""Builds an atlas from annotated CTs: first the common space, then one probability map per organ."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.atlas.average import probability_maps, with_agreements
from medsam2_atlas.atlas.options import BuildOptions
from medsam2_atlas.atlas.reading import AnnotatedCT, Snapshots, read_annotated
from medsam2_atlas.atlas.reference import Reference, ReferenceFiles
from medsam2_atlas.atlas.sex import read_sexes
from medsam2_atlas.atlas.warp import warp_reference
from medsam2_atlas.base.choices import MissingOrgan
from medsam2_atlas.base.errors import AtlasError, InputError, MedSAM2AtlasError, listed, problem_of
from medsam2_atlas.base.mapping import Map, in_turn
from medsam2_atlas.base.progress import Progress, doing, silent
from medsam2_atlas.imaging.kinds import SUFFIXES, suffix_in, unused_images
from medsam2_atlas.registration import (
    CommonSpace,
    Landmarks,
    MeanDescriptors,
    RegistrationConfig,
    UnregisteredError,
    WorkImage,
    build_common_space,
    mean_descriptors,
)

log = logging.getLogger(__name__)


def find_references(folder: Path, skipped: dict[str, str] | None = None) -> list[ReferenceFiles]:
    """Finds pairs of files with the same name in `folder/images` and `folder/labels`; see `find_pairs`.

    `folder/sexes.csv` may give the sexes of some references; see `sex.read_sexes`.

    Args:
        folder: the folder that contains `images` and `labels`.
        skipped: receives the reason by name for each file without a pair; such files are skipped. If None, they raise an error.
    """
    for kind in ("images", "labels"):
        if not (folder / kind).is_dir():
            raise InputError(
                folder, f"has no folder {kind}/.", "Put CTs into images/, label maps of the same names into labels/."
            )
    pairs = find_pairs(folder / "images", folder / "labels", skipped)
    sexes = read_sexes(folder / "sexes.csv", {files.name for files in pairs} | {Path(name).name for name in skipped or ()})
    return [replace(files, sex=sexes.get(files.name)) for files in pairs]


def find_pairs(images: Path, labels: Path, skipped: dict[str, str] | None = None) -> list[ReferenceFiles]:
    """Finds pairs of files with the same name in two folders.

    Args:
        images: the folder of the CTs.
        labels: the folder of the label maps.
        skipped: receives the reason by name for each file without a pair; such files are skipped. If None, they raise an error.

    Returns:
        The pairs, sorted by name.

    Raises:
        InputError: there is no pair; if `skipped` is None, also if a file has no pair.
    """
    files: dict[Path, dict[str, list[Path]]] = {images: {}, labels: {}}
    problems: dict[str, str] = {}
    for folder, names in files.items():
        others = []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                suffix = suffix_in(entry.name, labels=folder == labels)
                if suffix and not entry.name.startswith("."):
                    names.setdefault(entry.name[: -len(suffix)], []).append(Path(entry.path))
                elif not entry.name.startswith("."):
                    others.append(entry)
            problems |= {f"{folder.name}/{name}": reason for name, reason in unused_images(others).items()}
    pairs = []
    for name in sorted({*files[images], *files[labels]}):
        here = files[images].get(name, []), files[labels].get(name, [])
        if len(here[0]) == len(here[1]) == 1:
            pairs.append(ReferenceFiles(name, here[0][0], here[1][0]))
        elif all(here):
            folder, several = (images, here[0]) if len(here[0]) > 1 else (labels, here[1])
            problems[name] = f"{folder.name}/ has several files of that name: {', '.join(file.name for file in several)}."
        else:
            problems[name] = f"{(labels if here[0] else images).name}/ has no file of that name."
    if problems and skipped is None:
        raise InputError(
            images.parent,
            f"has files that cannot be used or have no pair. {_listed(problems)}",
            "Each image needs one label map of the same name.",
        )
    if not pairs:
        remedy = f"Put files of the same names, ending in {', '.join(SUFFIXES)}, into images/ and labels/."
        raise InputError(images.parent, f"has no annotated CTs. {_listed(problems)}".rstrip(), remedy)
    if skipped is not None:
        skipped.update(problems)
    return pairs


def build_atlas(
    references: Sequence[ReferenceFiles],
    options: BuildOptions | None = None,
    *,
    skipped: dict[str, str] | None = None,
    progress: Progress = silent,
    mapped: Map = in_turn,
) -> Atlas:
    """Registers references to one common space and averages their labels in it. Each file is read once.

    Args:
        references: the annotated CTs; fields of view and label sets may be partial.
        options: the options; their defaults if None.
        skipped: receives the reason by name for each reference that cannot be used; such references are skipped. If None, the
            first one raises its error.
        progress: called with the stage and the fraction completed.
        mapped: registers references one after the other, or at the same time on a cluster.

    Raises:
        InputError: a file cannot be used, and `skipped` is None.
        AtlasError: no reference can be used, or no reference has a labelled organ.
    """
    if not references:
        raise AtlasError("atlas", "has no references.", "Name at least one annotated CT.")
    options = options or BuildOptions()
    cases = _read(references, options, skipped, progress)
    space = _common_space(cases, options.registration, skipped, progress, mapped)
    template = replace(space.template, hu=space.template.hu.round())  # the stored form
    warped: list[Reference] = []
    for number, (case, transform, points) in enumerate(zip(cases, space.transforms, space.keypoints, strict=True)):
        doing(case.name)
        try:
            warped.append(replace(warp_reference(case, transform, template), keypoints=points))
        except Exception as error:  # noqa: BLE001 - one bad reference must not block the others
            skip(case.name, error, skipped)
        progress("averaging labels", (number + 1) / len(cases))
    if not warped:
        raise _unusable(skipped)
    landmarks = Landmarks.of([reference.keypoints for reference in warped])
    template = replace(template, group=group_of(warped, template, options.registration), landmarks=landmarks)
    stored = {
        "missing": options.missing,
        "registration": options.registration.record(),
        "hu": str(options.hu),
        "hu_offsets": {case.name: case.hu_offset for case in cases if case.hu_offset},
    }
    return assemble(template, warped, stored)


def _read(
    references: Sequence[ReferenceFiles], options: BuildOptions, skipped: dict[str, str] | None, progress: Progress
) -> list[AnnotatedCT]:
    """Returns the references that can be read; see `build_atlas`."""
    cases: list[AnnotatedCT] = []
    progress("reading references", 0.0)
    for number, files in enumerate(references):
        doing(files.name)
        try:
            cases.append(read_annotated(files, options.registration, options.table, options.hu, Snapshots()))
        except Exception as error:  # noqa: BLE001 - one bad reference must not block the others
            skip(files.name, error, skipped)
        progress("reading references", (number + 1) / len(references))
    return cases


def _common_space(
    cases: list[AnnotatedCT],
    registration: RegistrationConfig,
    skipped: dict[str, str] | None,
    progress: Progress,
    mapped: Map,
) -> CommonSpace:
    """Returns the common space of the cases that can be registered; removes the others from `cases`.

    Raises:
        AtlasError: no case can be registered.
    """
    while cases:
        doing(f"{len(cases)} references")
        try:
            return build_common_space([case.work for case in cases], registration, progress=progress, mapped=mapped)
        except UnregisteredError as failure:
            skip(cases.pop(failure.number).name, failure.reason, skipped)
    raise _unusable(skipped)


def _listed(problems: Mapping[str, str], max_count: int = 5) -> str:
    return " ".join(f"{name}: {problem}" for name, problem in list(problems.items())[:max_count])


def _unusable(skipped: dict[str, str] | None) -> AtlasError:
    return AtlasError("atlas", f"has no reference that can be used: {listed(skipped or {})}")


def skip(name: str, error: Exception, skipped: dict[str, str] | None) -> None:
    """Records the reason why a reference is skipped, or raises it.

    Args:
        name: the reference's name.
        error: the reason.
        skipped: receives the reason by name; None to raise the error.

    Raises:
        MedSAM2AtlasError: `skipped` is None. An error of another library becomes an AtlasError with the reference's name.
    """
    if skipped is None:
        if isinstance(error, MedSAM2AtlasError):
            raise error
        raise AtlasError(name, f"cannot be used as a reference: {problem_of(error)}.") from error
    skipped[name] = problem_of(error)
    log.warning("%s is left out as a reference: %s", name, skipped[name])


def assemble(template: WorkImage, references: Sequence[Reference], options: Mapping[str, Any]) -> Atlas:
    """Returns an atlas of references that are already in its common space.

    Args:
        template: the mean image of the common space.
        references: the references of the new atlas.
        options: the atlas' stored options; `missing` determines the meaning of an organ that a reference lacks.

    Raises:
        AtlasError: no reference has a labelled organ.
    """
    missing = missing_of(options)
    maps = probability_maps(references, template, missing)
    if not maps:
        raise AtlasError(
            "atlas", "would be empty: no reference has a labelled organ.", "Add label maps with organs of configs/labels.yaml."
        )
    return Atlas(template, maps, with_agreements(references, template, missing), dict(options))


def missing_of(options: Mapping[str, Any]) -> MissingOrgan:
    """Returns the meaning of an organ that a reference lacks, as recorded in an atlas' options."""
    return "absent" if options.get("missing") == "absent" else "unknown"


def group_of(references: Sequence[Reference], template: WorkImage, registration: RegistrationConfig) -> MeanDescriptors:
    """Returns the references' mean descriptors. They belong to the common space, so they do not change if the atlas grows.

    Args:
        references: the references from which the common space was built.
        template: the mean image of that space.
        registration: the registration parameters, which define the descriptors.
    """
    return mean_descriptors((reference.on_template for reference in references), template, registration)
