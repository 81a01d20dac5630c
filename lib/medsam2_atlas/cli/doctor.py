"""`medsam2-atlas doctor`: reports what is installed, what is missing, and how to get it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from medsam2_atlas.base.console import Table, show
from medsam2_atlas.base.errors import MedSAM2AtlasError, problem_of
from medsam2_atlas.cli.doctor_device import Row as _Row
from medsam2_atlas.cli.doctor_device import device_rows as _device
from medsam2_atlas.cli.options import AtlasOption, CheckpointOption, ConfigOption

_PACKAGES = ("torch", "monai", "monailabel", "sam2", "SimpleITK", "numpy", "pydicom")


def doctor_command(
    atlas: AtlasOption = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    dicomweb: Annotated[str, typer.Option(help="DICOMweb URL to test.")] = "http://127.0.0.1:8042/dicom-web",
) -> None:
    """Check the installation: versions, device, weights, engine, atlas, settings, DICOMweb server; print missing remedies.

    The exit status is 1 if something is missing.
    """
    rows = [
        *_versions(),
        *_checked("device", _device),
        *_checked("weights", lambda: _weights(checkpoint, config)),
        *_checked("engine", _engine),
        *_checked("U-Net", _unet),
        *_checked("atlas", lambda: _atlas(atlas)),
        *_checked("settings", _settings),
        _dicomweb(dicomweb),
    ]
    table = Table("what", "state", "remedy")
    for row in rows:
        table.add_row(row.what, f"[{'green' if row.good else 'red'}]{escape(row.state)}[/]", escape(row.remedy))
    show(table)
    if not all(row.good for row in rows):
        raise typer.Exit(1)


def _checked(what: str, check: Callable[[], Iterator[_Row]]) -> list[_Row]:
    """Returns the rows of a check, or one row with the check's error."""
    try:
        return list(check())
    except MedSAM2AtlasError as error:
        return [_Row(what, f"{error.subject}: {error.problem}", error.remedy, good=False)]
    except ImportError as error:
        return [_Row(what, f"not checked: {error}", "make install", good=False)]
    except Exception as error:  # noqa: BLE001 - a failed check must not hide the results of the others
        return [_Row(what, f"cannot be checked: {problem_of(error)}", good=False)]


def _versions() -> Iterator[_Row]:
    from importlib.metadata import PackageNotFoundError, version

    from medsam2_atlas.base.version import package_version

    yield _Row("medsam2-atlas", package_version())
    yield _Row("Python", platform.python_version())
    for name in _PACKAGES:
        try:
            yield _Row(name, version(name))
        except PackageNotFoundError:
            yield _Row(name, "not installed", "make install", good=False)


def _weights(checkpoint: Path | None, config: str | None) -> Iterator[_Row]:
    from medsam2_atlas.medsam2 import find_checkpoint, load_weights

    found = load_weights(find_checkpoint(checkpoint), config)
    yield _Row("weights", _file(found.file, found.sha256), "medsam2-atlas weights fetch" if found.mark else "")
    if found.mark:
        yield _Row("", found.mark)


def _engine() -> Iterator[_Row]:
    import torch

    from medsam2_atlas.medsam2 import describe_engine

    yield _Row("engine on the CPU", describe_engine(torch.device("cpu")))


def _unet() -> Iterator[_Row]:
    from medsam2_atlas.segmenters.places import find_unet
    from medsam2_atlas.unet import load_unet

    found = load_unet(find_unet("unet_3d"))
    yield _Row("U-Net", _file(found.file, found.sha256), "medsam2-atlas train unet" if found.mark else "")
    if found.mark:
        yield _Row("", found.mark)


def _atlas(given: Path | None) -> Iterator[_Row]:
    from medsam2_atlas.atlas import Atlas
    from medsam2_atlas.segmenters.places import find_atlas

    found = Atlas.load(find_atlas(given))
    yield _Row("atlas", f"{found.source}: version {found.version}, {len(found.references)} references")


def _settings() -> Iterator[_Row]:
    """Yields a row with the folder of the settings, and a row for each file with changed settings."""
    from medsam2_atlas.base.resource import resource
    from medsam2_atlas.cli.configurations import changed_settings

    changed = changed_settings()
    yield _Row("settings", f"{resource('configs')}: {'changed' if changed else 'all settings have their defaults'}")
    for line in changed:
        yield _Row("", line)


def _file(file: Path, checksum: str) -> str:
    return f"{file} (SHA-256 {checksum[:12]}…)"


def _dicomweb(url: str) -> _Row:
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/studies?limit=1", timeout=3) as answer:
            return _Row("DICOMweb", f"{url}: reachable (HTTP status {answer.status})")
    except (urllib.error.URLError, OSError, ValueError, HTTPException) as error:
        state = f"{url}: not reachable ({getattr(error, 'reason', error)})"
        return _Row("DICOMweb", state, "Only studies in a PACS need it: start the PACS, or give its URL with --dicomweb.")
