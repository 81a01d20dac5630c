"""The viewers that tests serve: MONAI Label's, unless a test asks for the fetched one."""

from __future__ import annotations

import os
from pathlib import Path

from medsam2_atlas.base.resource import viewer_folder
from medsam2_atlas.base.viewer_package import installed_viewer

_VARIABLE = "MEDSAM2_ATLAS_VIEWER"

FETCHED: Path | None = viewer_folder() if installed_viewer() is not None else None
"""The folder with the viewer that `make e2e-tools` fetches; None if it is not installed."""


def use_viewer_of_monai_label() -> None:
    """Makes servers of the tests find no fetched viewer."""
    os.environ[_VARIABLE] = os.devnull + "-no-viewer"


def with_fetched_viewer(folder: Path) -> dict[str, str]:
    """Returns the environment of a server that serves the fetched viewer in a folder."""
    return {_VARIABLE: str(folder)}
