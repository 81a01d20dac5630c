"""The OHIF viewer of npm's package `@ohif/app`: checks its archive, installs it, and finds the installed one.

`configs/viewer.yaml` pins one version by its SHA-512. Only the files of the built viewer are unpacked, into a new folder that
is renamed when it is complete. A server therefore sees either no viewer or a complete one.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tarfile
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.base.files import remove_folder
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.base.resource import resource, viewer_folder

_BLOCK = 1 << 20
_BUILT = PurePosixPath("package/dist")
_MAX_BYTES = 400_000_000
"""Max bytes of the unpacked viewer. The pinned one has 213 MB, of which 47 MB are unpacked."""


@dataclass(frozen=True)
class ViewerPackage:
    """The pinned package.

    Attributes:
        package: its name in the npm registry.
        version: its version.
        file: name of its archive.
        url: address of its archive.
        bytes: size of its archive.
        integrity: SHA-512 of its archive, in npm's notation.
        left_out: folders of the built viewer that are not unpacked.
    """

    package: str
    version: str
    file: str
    url: str
    bytes: int
    integrity: str
    left_out: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The folder in which this version is installed."""
        return viewer_folder() / f"ohif-{self.version}"


@cache
def viewer_package() -> ViewerPackage:
    """Returns the package that `configs/viewer.yaml` pins."""
    import yaml

    listed = yaml.safe_load(resource("configs/viewer.yaml").read_text(encoding="utf-8"))
    return ViewerPackage(**{**listed, "left_out": tuple(listed["left_out"])})


def installed_viewer() -> Path | None:
    """Returns the folder of the installed viewer; None if the pinned version is not installed."""
    folder = viewer_package().folder
    return folder if (folder / "index.html").is_file() else None


def check_viewer(archive: Path) -> None:
    """Checks that a file is the pinned package.

    Raises:
        InputError: its size or SHA-512 differs, or it cannot be read.
    """
    pinned = viewer_package()
    remedy = "Fetch it again with `medsam2-atlas viewer fetch`, or with `npm pack @ohif/app@VERSION` on another machine."
    try:
        size = archive.stat().st_size
        digest = _integrity(archive) if size == pinned.bytes else ""
    except OSError as error:
        raise InputError(archive, f"cannot be read ({error.strerror}).", "Name the archive (.tgz) of the viewer.") from error
    if digest != pinned.integrity:
        raise InputError(archive, f"is not {pinned.package} {pinned.version}: its size or SHA-512 differs.", remedy)


def install_viewer(archive: Path, progress: Progress = silent) -> Path:
    """Installs the viewer from its archive, in one step, and returns its folder.

    Args:
        archive: file that `npm pack` or the npm registry returns (.tgz).
        progress: called with the step `unpack` and the fraction completed, 0..1.

    Raises:
        InputError: the file is not the pinned package.
        StorageError: the viewer cannot be written.
    """
    check_viewer(archive)
    pinned = viewer_package()
    target = pinned.folder
    made = target.with_name(f".new-{uuid.uuid4().hex[:8]}")
    try:
        made.mkdir(parents=True)
        _unpack(archive, made, pinned.left_out, progress)
        if target.exists():  # an older installation of the same version
            old = target.with_name(f".old-{uuid.uuid4().hex[:8]}")
            os.replace(target, old)
            os.replace(made, target)
            remove_folder(old, below=target.parent)
        else:
            os.replace(made, target)
    except OSError as error:
        remedy = "Free space, or set MEDSAM2_ATLAS_VIEWER to a folder that this user can write."
        raise StorageError(target, f"cannot be written ({error.strerror}).", remedy) from error
    finally:
        if made.is_dir():
            remove_folder(made, below=target.parent)
    return target


def _integrity(file: Path) -> str:
    """Returns the SHA-512 of a file in npm's notation."""
    digest = hashlib.sha512()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return "sha512-" + base64.b64encode(digest.digest()).decode()


def _unpack(archive: Path, folder: Path, left_out: tuple[str, ...], progress: Progress) -> None:
    """Unpacks the built viewer without source maps. Links, devices and paths that lead out of the folder are left out."""
    written, total = 0, archive.stat().st_size
    with archive.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:gz") as packed:
        for entry in packed:
            path = PurePosixPath(entry.name)
            if not entry.isreg() or ".." in path.parts or not path.is_relative_to(_BUILT):
                continue
            inner = path.relative_to(_BUILT)
            if inner.parts[0] in left_out or inner.suffix == ".map":
                continue
            written += entry.size
            content = packed.extractfile(entry)
            if written > _MAX_BYTES or content is None:
                raise InputError(archive, "unpacks to too many bytes.", "Fetch it again with `medsam2-atlas viewer fetch`.")
            target = folder / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                while block := content.read(_BLOCK):
                    out.write(block)
            progress("unpack", min(1.0, stream.tell() / total))
    progress("unpack", 1.0)
