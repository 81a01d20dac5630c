"""Lets an atlas grow by labels that people sign off: only new references are registered, bad ones are refused."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.atlas.build import assemble, build_atlas, read_reference, skip
from medsam2_atlas.atlas.outlier import outlying
from medsam2_atlas.atlas.reference import Reference, ReferenceFiles, warp_reference
from medsam2_atlas.base.choices import MissingOrgan
from medsam2_atlas.base.errors import problem_of
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.registration import (
    RegistrationCache,
    RegistrationConfig,
    Transform,
    WorkImage,
    register,
    registration_config,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Growth:
    """What became of the references that were offered.

    refused: name to reason: outlying references, and cases that cannot be used. kept: references that the atlas already had
    with the same labels.
    """

    atlas: Atlas
    added: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


def grow_atlas(
    base: Atlas | None,
    finals: Sequence[ReferenceFiles],
    *,
    exclude: Collection[str] = (),
    trust: Collection[str] = (),
    config: RegistrationConfig | None = None,
    table: OrganTable | None = None,
    hu: HuRule = CHECK,
    cache: RegistrationCache | None = None,
    strict: bool = False,
    progress: Progress = silent,
) -> Growth:
    """The atlas of a base's references and of all labels that are signed off now.

    The common space stays, so that registrations of targets stay valid. References that `base` has already with the same
    labels are not registered again; those of origin `final` that are no longer offered leave it.

    Args:
        base: the atlas so far, whose own references stay; without one, an atlas is built from `finals` and the outlying
            ones among them are left out.
        finals: annotated CTs.
        exclude: names that are not to be references, of the base too.
        trust: names that are taken even if they lie apart from the others.
        config: registration parameters; those of `configs/registration.yaml` by default.
        table: the organs; those of `configs/labels.yaml` by default.
        hu: how the values of the CTs become HU. If the atlas grew by another rule, its final references are read again.
        cache: where registrations are kept, so that a relabelled or once refused case is not registered again.
        strict: raise the error of the first case that cannot be used; outlying references are refused all the same.
        progress: told stages and shares.

    Raises:
        AtlasError: nothing would be left.
        MedSAM2AtlasError: if `strict`, a case that cannot be used.
    """
    config, table = config or registration_config(), table or organ_table()
    offered = [files for files in finals if files.name not in exclude]
    if base is None:
        return _first_atlas(offered, trust, config, table, hu, strict, progress)
    missing: MissingOrgan = "absent" if base.options.get("missing") == "absent" else "unknown"
    refused: dict[str, str] = {}
    offered, sums = _checksums(offered, None if strict else refused)
    images = {files.name: files.image for files in offered}
    same_values = base.options.get("hu", str(CHECK)) == str(hu)
    keep = [
        reference
        for reference in base.references
        if reference.name not in exclude
        and (same_values or reference.origin == "base")
        and sums.get(reference.name, reference.sha256 if reference.origin == "base" else "") == reference.sha256
        and (reference.origin == "base" or _same_image(reference, images[reference.name]))
    ]
    have = {reference.name for reference in keep}
    added: list[Reference] = []
    offsets = {name: offset for name, offset in base.options.get("hu_offsets", {}).items() if name in have}
    fresh = [files for files in offered if files.name not in have]
    for number, files in enumerate(fresh):
        try:
            image = read_reference(files, config, table, hu, offsets)
            transform = _registered(image, base, config, cache)
            reference = warp_reference(files, image, transform, base.template, "final")
            reason = "" if files.name in trust else outlying(reference, keep, base.template, missing, table)
        except Exception as error:  # noqa: BLE001 - one bad case must not keep the others out
            skip(files.name, error, None if strict else refused)
        else:
            if reason:
                refused[files.name] = reason
                log.warning("%s is refused as a reference: %s", files.name, reason)
            else:
                added.append(reference)
        progress("new references", (number + 1) / len(fresh))
    now = {reference.name for reference in (*keep, *added)}
    options = base.options | {"hu": str(hu), "hu_offsets": {k: v for k, v in offsets.items() if k in now}}
    atlas = assemble(base.template, [*keep, *added], options)
    removed = tuple(reference.name for reference in base.references if reference.name not in now)
    return Growth(atlas, tuple(r.name for r in added), tuple(r.name for r in keep), removed, refused)


def _checksums(
    offered: Sequence[ReferenceFiles], refused: dict[str, str] | None
) -> tuple[list[ReferenceFiles], dict[str, str]]:
    """Returns the labels that can be read, and their checksums by name; records the others as refused, or raises."""
    readable, sums = [], {}
    for files in offered:
        try:
            sums[files.name] = sha256(files.label)
            readable.append(files)
        except OSError as error:
            skip(files.name, error, refused)
    return readable, sums


def _same_image(reference: Reference, image: Path) -> bool:
    """Returns whether an image file is the one that a reference was made of, as far as that is known."""
    try:
        return not (reference.image_sha256 and image.is_file()) or reference.image_sha256 == sha256(image)
    except OSError:
        return False  # reading it raises the error again, for the report


def _registered(image: WorkImage, base: Atlas, config: RegistrationConfig, cache: RegistrationCache | None) -> Transform:
    if cache is None:
        return register(base.template, image, config)
    key = hashlib.sha256(image.hu.numpy().tobytes() + image.origin.numpy().tobytes() + config.model_dump_json().encode())
    name = f"{base.template_version}-references/{key.hexdigest()[:20]}"
    return cache.get(name, lambda: register(base.template, image, config))


def _first_atlas(
    offered: Sequence[ReferenceFiles],
    trust: Collection[str],
    config: RegistrationConfig,
    table: OrganTable,
    hu: HuRule,
    strict: bool,
    progress: Progress,
) -> Growth:
    """Builds from signed-off labels alone; those that turn out to lie apart are left out of the averages."""
    refused: dict[str, str] = {}
    atlas = build_atlas(offered, config=config, table=table, hu=hu, skipped=None if strict else refused, progress=progress)
    references = [_as_final(reference) for reference in atlas.references]
    missing: MissingOrgan = "unknown"
    for reference in list(references):
        others = [other for other in references if other is not reference]
        try:
            alone = reference.name in trust or len(others) < 2
            reason = "" if alone else outlying(reference, others, atlas.template, missing, table)
        except Exception as error:  # noqa: BLE001 - one bad case must not keep the others out
            reason = problem_of(error)
        if reason:
            refused[reference.name] = reason
            references = others
    atlas = assemble(atlas.template, references, atlas.options)
    return Growth(atlas, tuple(r.name for r in atlas.references), refused=refused)


def _as_final(reference: Reference) -> Reference:
    return replace(reference, origin="final", stored=None)
