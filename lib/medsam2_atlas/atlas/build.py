"""Builds an atlas from annotated CTs: a common space once, then one probability map per organ."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.atlas.average import probability_maps, with_agreements
from medsam2_atlas.atlas.reference import NOWHERE, Reference, ReferenceFiles, warp_reference
from medsam2_atlas.base.choices import MissingOrgan
from medsam2_atlas.base.errors import AtlasError, InputError, MedSAM2AtlasError, problem_of
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule, to_hu
from medsam2_atlas.imaging.kinds import SUFFIXES, not_taken, suffix_in
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.imaging.volume import read_labels, read_volume
from medsam2_atlas.registration import (
    LEAST_COVERAGE,
    CommonSpace,
    MeanDescriptors,
    RegistrationConfig,
    UnregisteredError,
    WorkImage,
    build_common_space,
    mean_descriptors,
    registration_config,
)

log = logging.getLogger(__name__)


def find_references(folder: Path, skipped: dict[str, str] | None = None) -> list[ReferenceFiles]:
    """Returns pairs of files with the same name in `folder/images` and `folder/labels`, sorted by name.

    Args:
        folder: of the two folders.
        skipped: filled with the reason why a file has no pair, by name; such files are left out. Without it, the first ones
            raise an error.

    Raises:
        InputError: the folders are missing or hold no pair, or an image has no label map or the other way round.
    """
    found: dict[str, dict[str, list[Path]]] = {"images": {}, "labels": {}}
    problems: dict[str, str] = {}
    for kind, files in found.items():
        if not (folder / kind).is_dir():
            raise InputError(
                folder, f"has no folder {kind}/.", "Put CTs into images/, label maps of the same names into labels/."
            )
        others = []
        with os.scandir(folder / kind) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                suffix = suffix_in(entry.name, labels=kind == "labels")
                if suffix and not entry.name.startswith("."):
                    files.setdefault(entry.name[: -len(suffix)], []).append(Path(entry.path))
                elif not entry.name.startswith("."):
                    others.append(entry)
            problems |= {f"{kind}/{name}": reason for name, reason in not_taken(others).items()}
    images, labels = found["images"], found["labels"]
    pairs = []
    for name in sorted({*images, *labels}):
        here = images.get(name, []), labels.get(name, [])
        if len(here[0]) == len(here[1]) == 1:
            pairs.append(ReferenceFiles(name, here[0][0], here[1][0]))
        elif all(here):
            kind, several = ("images", here[0]) if len(here[0]) > 1 else ("labels", here[1])
            problems[name] = f"{kind}/ has several files of that name: {', '.join(file.name for file in several)}."
        else:
            problems[name] = f"{'labels' if here[0] else 'images'}/ has no file of that name."
    if problems and skipped is None:
        raise InputError(
            folder,
            f"has files that cannot be used or have no pair. {_told(problems)}",
            "Each image needs one label map of the same name.",
        )
    if not pairs:
        remedy = f"Put files of the same names, ending in {', '.join(SUFFIXES)}, into images/ and labels/."
        raise InputError(folder, f"has no references. {_told(problems)}".rstrip(), remedy)
    if skipped is not None:
        skipped.update(problems)
    return pairs


def build_atlas(
    references: Sequence[ReferenceFiles],
    *,
    missing: MissingOrgan = "unknown",
    config: RegistrationConfig | None = None,
    table: OrganTable | None = None,
    hu: HuRule = CHECK,
    skipped: dict[str, str] | None = None,
    progress: Progress = silent,
) -> Atlas:
    """Registers the references into one common space and averages their labels there.

    Args:
        references: annotated CTs; whole or partial fields of view and label sets are welcome.
        missing: what it means that a label map lacks an organ: not annotated, so the reference is left out of that
            organ's average ("unknown"), or truly not there ("absent").
        config: registration parameters; those of `configs/registration.yaml` by default.
        table: the organs; those of `configs/labels.yaml` by default.
        hu: how the values of the CTs become HU.
        skipped: filled with the reason why a reference cannot be used, by name; such references are left out. Without it,
            the first one raises its error.
        progress: told stages and shares.

    Raises:
        InputError: a file that cannot be used.
        AtlasError: no reference can be used, or no organ is labelled in any.
    """
    if not references:
        raise AtlasError("atlas", "has no references.", "Name at least one annotated CT.")
    config, table = config or registration_config(), table or organ_table()
    used: list[ReferenceFiles] = []
    images: list[WorkImage] = []
    offsets: dict[str, float] = {}
    for number, files in enumerate(references):
        try:
            image = read_reference(files, config, table, hu, offsets)
        except Exception as error:  # noqa: BLE001 - one bad reference must not stop the building
            skip(files.name, error, skipped)
        else:
            used.append(files)
            images.append(image)
        progress("reading references", (number + 1) / len(references))
    if not used:
        raise _unusable(skipped)
    space = _common_space(used, images, config, skipped, progress)
    template = replace(space.template, hu=space.template.hu.round())  # as it is stored
    warped: list[Reference] = []
    for number, (files, image, transform) in enumerate(zip(used, images, space.transforms, strict=True)):
        try:
            warped.append(warp_reference(files, image, transform, template))
        except Exception as error:  # noqa: BLE001 - one bad reference must not stop the building
            skip(files.name, error, skipped)
        progress("averaging labels", (number + 1) / len(used))
    if not warped:
        raise _unusable(skipped)
    template = replace(template, group=group_of(warped, template))
    options = {"missing": missing, "registration": config.model_dump(mode="json"), "hu": str(hu), "hu_offsets": offsets}
    return assemble(template, warped, options)


def _common_space(
    used: list[ReferenceFiles],
    images: list[WorkImage],
    config: RegistrationConfig,
    skipped: dict[str, str] | None,
    progress: Progress,
) -> CommonSpace:
    """Returns the common space of the images that can be registered; removes the others from both lists.

    Raises:
        AtlasError: none can be registered.
    """
    while images:
        try:
            return build_common_space(images, config, progress=progress)
        except UnregisteredError as failure:
            images.pop(failure.number)
            skip(used.pop(failure.number).name, failure.reason, skipped)
    raise _unusable(skipped)


def _told(problems: Mapping[str, str], most: int = 5) -> str:
    return " ".join(f"{name}: {problem}" for name, problem in list(problems.items())[:most])


def _unusable(skipped: dict[str, str] | None) -> AtlasError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted((skipped or {}).items()))
    return AtlasError("atlas", f"has no reference that can be used: {reasons[:2000]}")


def skip(name: str, error: Exception, skipped: dict[str, str] | None) -> None:
    """Records why a reference is left out; raises the error if `skipped` is None, with the name if it is another library's."""
    if skipped is None:
        if isinstance(error, MedSAM2AtlasError):
            raise error
        raise AtlasError(name, f"cannot be used as a reference: {problem_of(error)}.") from error
    skipped[name] = problem_of(error)
    log.warning("%s is left out as a reference: %s", name, skipped[name])


def assemble(template: WorkImage, references: Sequence[Reference], options: Mapping[str, Any]) -> Atlas:
    """An atlas of references that are in its common space already.

    Raises:
        AtlasError: no organ is labelled in any.
    """
    missing: MissingOrgan = "absent" if options.get("missing") == "absent" else "unknown"
    maps = probability_maps(references, template, missing)
    if not maps:
        raise AtlasError("atlas", "would be empty: no reference has a labelled organ.")
    return Atlas(template, maps, with_agreements(references, template, missing), dict(options))


def group_of(references: Sequence[Reference], template: WorkImage) -> MeanDescriptors:
    """What references look like in their common space. It is made once, with the space: as the atlas grows, it stays."""
    pictures = (torch.from_numpy(reference.picture.astype(np.float32)) for reference in references)
    return mean_descriptors(((picture, picture > NOWHERE) for picture in pictures), template, LEAST_COVERAGE)


def read_reference(
    files: ReferenceFiles,
    config: RegistrationConfig,
    table: OrganTable,
    hu: HuRule = CHECK,
    offsets: dict[str, float] | None = None,
) -> WorkImage:
    """Returns the CT of a reference on its working grid, after a check of its label map.

    `offsets` is filled with the number that was added to its values, by name, if that is not 0.

    Raises:
        InputError: a file that cannot be used, values that are no HU, an empty label map, or labels that the organ table
            lacks.
    """
    image = read_volume(files.image)
    label = read_labels(files.label, image)
    table.check(files.label, np.unique(label.array).tolist())
    image = to_hu(image, hu)
    if offsets is not None and image.hu is not None and image.hu["offset"]:
        offsets[files.name] = image.hu["offset"]
    return WorkImage.of(image, config.spacing)
