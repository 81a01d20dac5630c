"""Makes the pictures of docs/tutorial.md: `make tutorial-pictures`.

Runs the page's commands in a folder, unless an earlier run has left its results there, then takes the pictures: the preview of
step 4, the worklist of the real server after ten cases in a headless Chromium, and the plot of the comparison.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from pictures import write_picture
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import server
from docs.tutorial import PAGE, run_page
from e2e.browser import browser_page

PICTURES = PAGE.parent / "pictures"


def worklist_page(folder: Path) -> Image.Image:
    """Returns a screenshot of the worklist of a server on the studies of a finished run."""
    with tempfile.TemporaryDirectory() as work:
        conf = {"atlas": str(folder / "atlas"), "learning": "false"}
        with server(folder / "studies", Path(work), conf, anew=True) as client, browser_page() as page:
            page.set_default_timeout(300_000)
            page.set_viewport_size({"width": 1400, "height": 800})
            page.goto(f"{client.get_server_url().rstrip('/')}/", wait_until="domcontentloaded")
            page.locator("tbody img").first.wait_for()
            page.wait_for_function(
                "() => [...document.querySelectorAll('tbody img')].slice(0, 8).every(i => i.complete && i.naturalWidth > 0)"
            )
            return Image.open(BytesIO(page.screenshot()))


def main() -> None:
    """Writes the pictures to docs/pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="of an earlier run of the page; default: a temporary folder")
    given = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "comparison").is_dir():
            run_page(folder)
        write_picture(Image.open(folder / "preview.png"), PICTURES / "tutorial-preview.png")
        write_picture(Image.open(folder / "comparison" / "dice.png"), PICTURES / "tutorial-comparison.png")
        write_picture(worklist_page(folder), PICTURES / "tutorial-review.png")


if __name__ == "__main__":
    main()
