"""The two viewers that this server can serve: OHIF of the fetched package, and OHIF of MONAI Label.

Each was built for a fixed path of a host. `ViewerFiles` says which bytes of its files name that path, and which folder of this
package contains the configuration and the extension that are written for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import monailabel.endpoints

from medsam2_atlas.base.viewer_package import installed_viewer

_HERE = Path(__file__).parent

MODES = ANNOTATE, MONAI_LABEL = "annotate", "monai-label"
"""The modes of both viewers. Links to one of them lead to the mode of the viewer that is served."""


@dataclass(frozen=True)
class ViewerFiles:
    """A built viewer.

    Attributes:
        mode: the path of the mode that annotates a study, below `/ohif/`.
        built: folder of the built viewer.
        own: folder of this server's configuration and extension for it. Its files win over the viewer's.
        built_for: the bytes by which a script names the path that it was built for.
        before, after: bytes around the new path in `built_for`'s place.
        links: pattern of the links of the page; group 1 comes before the path, group 2 after it.
    """

    mode: str
    built: Path
    own: Path
    built_for: bytes
    before: bytes
    after: bytes
    links: re.Pattern[str]

    def page(self, up: str) -> str:
        """Returns the viewer's page with links relative to a request. `up`: the server's address relative to the request's."""
        text = (self.built / "index.html").read_text(encoding="utf-8")
        text = self.links.sub(rf"\g<1>{up}ohif/\g<2>", text)
        here = f'new URL("{up}ohif/",location.href).pathname'
        return text.replace('window.PUBLIC_URL="/"', f"window.PUBLIC_URL={here}")


def served_viewer() -> ViewerFiles:
    """Returns the fetched viewer if it is installed, else the viewer that comes with MONAI Label."""
    folder = installed_viewer()
    return _fetched(folder.resolve()) if folder is not None else _of_monai_label()


def _fetched(folder: Path) -> ViewerFiles:
    """Returns npm's `@ohif/app`, which was built for the path `/`."""
    return ViewerFiles(
        mode=ANNOTATE,
        built=folder,
        own=(_HERE / "annotator").resolve(),
        built_for=b'__webpack_require__.p = "/";',
        before=b"__webpack_require__.p = ",
        after=b";",
        links=re.compile(r'((?:href|src)=")/((?!/)[^"]*")'),
    )


@cache
def _of_monai_label() -> ViewerFiles:
    """Returns MONAI Label's OHIF, which was built for the path `/ohif/`."""
    return ViewerFiles(
        mode=MONAI_LABEL,
        built=(Path(monailabel.endpoints.__file__).parent / "static" / "ohif").resolve(),
        own=(_HERE / "ohif").resolve(),
        built_for=b'"/ohif/"',
        before=b"",
        after=b"",
        links=re.compile(r"""(["'])/ohif/()"""),
    )
