"""Erases a study from the grown atlas: removes every version that contains it, and rebuilds the current one without it.

A grown atlas with a base keeps the base's common space, and its maps are sums over references, so it can be assembled at once
without one of them. The common space of an atlas that grew from signed-off label maps alone is an average of their images, and
may include this study: all versions are removed, and the atlas must be built again.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from medsam2_atlas.atlas import Atlas, AtlasStore
from medsam2_atlas.atlas.build import assemble
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.files import remove_folder, text_of

log = logging.getLogger(__name__)


def versions_with(folder: Path, study: str, final: bool) -> list[Path]:
    """Returns the folders of the atlas versions that contain a study.

    Args:
        folder: the folder of the atlas.
        study: the name of the study.
        final: whether the study was ever signed off. If so, it may be part of a common space even if it is not a reference.
    """
    found = []
    for path in sorted((folder / "versions").glob("*")):
        if not path.is_dir() or path.is_symlink():
            continue
        about = _about(path)
        if about is None or study in reference_names(path) or (final and not _base(about)):
            found.append(path)
    return found


def erase_reference(folder: Path, study: str, final: bool) -> bool:
    """Erases a study from all versions of an atlas. `versions_with` documents the arguments.

    Returns:
        Whether the atlas must be built again, because its current version was removed.

    Raises:
        OSError, StorageError: a version cannot be written or removed.
    """
    store, tainted = AtlasStore(folder), versions_with(folder, study, final)
    current, rebuild = store.current, False
    if current is not None and current in tainted:
        rebuild = not _published_without(store, current, study)
        if rebuild:
            (folder / "current").unlink(missing_ok=True)
    for path in tainted:
        if path != store.current:
            remove_folder(path, folder)
    return rebuild


def _published_without(store: AtlasStore, current: Path, study: str) -> bool:
    """Assembles the current version again without a reference; returns False if that is impossible."""
    about = _about(current)
    if about is None or not _base(about):
        return False
    try:
        atlas = Atlas.load(current)
        kept = [reference for reference in atlas.references if reference.name != study]
        options = dict(atlas.options)
        options["hu_offsets"] = {name: value for name, value in options.get("hu_offsets", {}).items() if name != study}
        without = assemble(atlas.template, kept, options)
        # Written even if a version with the same content exists: if the study has a copy under another name, the existing
        # version may contain the erased study's name.
        without.save(store.folder / "versions" / without.version)
        store.activate(without.version)
    except MedSAM2AtlasError as error:
        log.warning("the atlas cannot be assembled without the erased study: %s", error)
        return False
    return True


def _about(path: Path) -> dict[str, Any] | None:
    """Returns the content of an atlas' `atlas.json`; None if it cannot be read."""
    try:
        content: Any = json.loads(text_of(path / "atlas.json"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _base(about: dict[str, Any]) -> str:
    options = about.get("options")
    return str(options.get("base") or "") if isinstance(options, dict) else ""


def reference_names(path: Path) -> set[str]:
    """Returns the names of an atlas' references; an empty set if there is no atlas."""
    references = (_about(path) or {}).get("references")
    entries = references if isinstance(references, list) else ()
    return {str(entry.get("name")) for entry in entries if isinstance(entry, dict)}
