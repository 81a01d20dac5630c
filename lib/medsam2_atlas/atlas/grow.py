"""Adds cases whose labels people have signed off to an atlas. Only new references are registered; outliers are refused.

Each file is read once: the files of a known reference to compare their checksums, the files of a new one to decode them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.atlas.build import assemble, build_atlas, missing_of, skip
from medsam2_atlas.atlas.options import GrowthOptions
from medsam2_atlas.atlas.outlier import outlying
from medsam2_atlas.atlas.reading import AnnotatedCT, Snapshots, read_annotated
from medsam2_atlas.atlas.reference import Reference, ReferenceFiles
from medsam2_atlas.atlas.warp import warp_reference
from medsam2_atlas.base.errors import InputError, problem_of
from medsam2_atlas.base.progress import Progress, doing, silent
from medsam2_atlas.imaging.hounsfield import CHECK
from medsam2_atlas.registration import Keypoints, Transform, WorkImage, keypoints_of, register

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Growth:
    """The result of an atlas' growth.

    Attributes:
        atlas: the new atlas.
        added: the names of new references.
        kept: the names of references that the atlas already had, with the same labels.
        removed: the names of references that were removed from the atlas.
        refused: the reason by name, for outliers and for cases that cannot be used.
    """

    atlas: Atlas
    added: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


def grow_atlas(
    base: Atlas | None, finals: Sequence[ReferenceFiles], options: GrowthOptions | None = None, progress: Progress = silent
) -> Growth:
    """Returns an atlas of the base's references and all cases that are now signed off.

    The common space stays the same, so that registrations of targets stay valid. References that are already in the base with
    the same labels are not registered again. References of origin `final` that are no longer available are removed.

    Args:
        base: the current atlas; its references of origin `base` stay. If None, an atlas is built from `finals`, without the
            outliers among them.
        finals: the annotated CTs that are signed off.
        options: the options; their defaults if None.
        progress: called with the stage and the fraction completed.

    Raises:
        AtlasError: the atlas would be empty.
        MedSAM2AtlasError: a case cannot be used, and `options.strict` is True.
    """
    options = options or GrowthOptions()
    available = [files for files in finals if files.name not in options.exclude]
    if base is None:
        return _first_atlas(available, options, progress)
    snapshots, refused = Snapshots(), dict[str, str]()
    available = _readable(available, base, snapshots, None if options.strict else refused)
    keep = _kept(base, available, options, snapshots)
    have = {reference.name for reference in keep}
    added: list[Reference] = []
    offsets = dict(base.options.get("hu_offsets", {}))
    fresh = [files for files in available if files.name not in have]
    if fresh:
        base.check_method(options.registration.method)
    for number, files in enumerate(fresh):
        doing(files.name)
        try:
            case = read_annotated(files, options.registration, options.table, options.hu, snapshots)
            reference, reason = _registered(case, base, keep, options)
        except Exception as error:  # noqa: BLE001 - one bad case must not block the other cases
            skip(files.name, error, None if options.strict else refused)
        else:
            if reason:
                refused[files.name] = reason
                log.warning("%s is refused as a reference: %s", files.name, reason)
            else:
                added.append(reference)
                offsets[files.name] = case.hu_offset
        progress("new references", (number + 1) / len(fresh))
    now = {reference.name for reference in (*keep, *added)}
    offsets = {name: offset for name, offset in offsets.items() if name in now and offset}
    atlas = assemble(base.template, [*keep, *added], base.options | {"hu": str(options.hu), "hu_offsets": offsets})
    removed = tuple(reference.name for reference in base.references if reference.name not in now)
    return Growth(atlas, tuple(r.name for r in added), tuple(r.name for r in keep), removed, refused)


def _readable(
    available: Sequence[ReferenceFiles], base: Atlas, snapshots: Snapshots, refused: dict[str, str] | None
) -> list[ReferenceFiles]:
    """Returns the available cases without known ones whose label map cannot be read.

    The reason for each such case is added to `refused`; if that is None, the error is raised. Label maps of known cases are
    hashed here, for the comparison. Label maps of new cases are hashed when they are decoded.
    """
    known = {reference.name for reference in base.references}
    readable = []
    for files in available:
        try:
            if files.name in known:
                snapshots.of(files.label)
            readable.append(files)
        except (OSError, InputError) as error:
            skip(files.name, error, refused)
    return readable


def _kept(base: Atlas, available: Sequence[ReferenceFiles], options: GrowthOptions, snapshots: Snapshots) -> list[Reference]:
    """Returns the base's references that stay unchanged."""
    files = {case.name: case for case in available}
    same_values = base.options.get("hu", str(CHECK)) == str(options.hu)
    return [
        reference
        for reference in base.references
        if reference.name not in options.exclude
        and (same_values or reference.origin == "base")
        and _same_files(reference, files, snapshots)
    ]


def _same_files(reference: Reference, available: Mapping[str, ReferenceFiles], snapshots: Snapshots) -> bool:
    """Returns whether a reference was made from the available files of its name, as far as their checksums are known."""
    files = available.get(reference.name)
    if files is None:
        return reference.origin == "base"
    try:
        if snapshots.of(files.label).sha256 != reference.sha256:
            return False
        if reference.origin == "base" or not (reference.image_sha256 and files.image.is_file()):
            return True
        return snapshots.of(files.image).sha256 == reference.image_sha256
    except (OSError, InputError):
        return False  # reading the case raises the error again, which is then reported


def _registered(case: AnnotatedCT, base: Atlas, keep: Sequence[Reference], options: GrowthOptions) -> tuple[Reference, str]:
    """Registers a case; returns it as a reference, and the reason why it is refused (empty if it is accepted)."""
    transform = _transform(case.work, base, options)
    reference = warp_reference(case, transform, base.template, "final")
    reference = replace(reference, keypoints=_keypoints(case.work, transform, options))
    if case.name in options.trust:
        return reference, ""
    limits = options.config.outlier
    return reference, outlying(reference, keep, base.template, missing_of(base.options), options.table, limits)


def _keypoints(image: WorkImage, transform: Transform, options: GrowthOptions) -> Keypoints:
    """Returns the keypoints of an image in the common space; `transform` leads from there to the image."""
    config = options.registration
    return keypoints_of(image.at_spacing(config.spacing).with_config(config.image), config.keypoints).moved(transform.undo)


def _transform(image: WorkImage, base: Atlas, options: GrowthOptions) -> Transform:
    def make() -> Transform:
        return register(base.template, image, options.registration)

    if options.cache is None:
        return make()
    identity = options.registration.identity.encode()
    key = hashlib.sha256(image.hu.numpy().tobytes() + image.origin.numpy().tobytes() + identity)
    return options.cache.get(f"{base.template_version}-references/{key.hexdigest()[:20]}", make)


def _first_atlas(available: Sequence[ReferenceFiles], options: GrowthOptions, progress: Progress) -> Growth:
    """Builds an atlas from signed-off cases alone; outliers among them are excluded from the averages."""
    refused: dict[str, str] = {}
    atlas = build_atlas(available, options.build, skipped=None if options.strict else refused, progress=progress)
    references = [_as_final(reference) for reference in atlas.references]
    for reference in list(references):
        others = [other for other in references if other is not reference]
        try:
            alone = reference.name in options.trust or len(others) < 2
            limits = options.config.outlier
            reason = "" if alone else outlying(reference, others, atlas.template, "unknown", options.table, limits)
        except Exception as error:  # noqa: BLE001 - one bad case must not block the other cases
            reason = problem_of(error)
        if reason:
            refused[reference.name] = reason
            references = others
    atlas = assemble(atlas.template, references, atlas.options)
    return Growth(atlas, tuple(r.name for r in atlas.references), refused=refused)


def _as_final(reference: Reference) -> Reference:
    return replace(reference, origin="final", stored=None)
