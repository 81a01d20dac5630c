"""Checks the accessibility of pages in a browser with axe-core, which `make e2e-tools` fetches. It is never shipped.

`python tests/e2e/axe.py` fetches the pinned package of the npm registry, checked by its SHA-512.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

VERSION = "4.10.3"
_URL = f"https://registry.npmjs.org/axe-core/-/axe-core-{VERSION}.tgz"
_INTEGRITY = "sha512-Xm7bpRXnDSX2YE2YFfBk2FnF0ep6tmG7xPh8iHee8MIcrgq762Nkce856dYtJYLkuIoYZvGfTs/PbZhideTcEg=="
"""The archive's SHA-512 in npm's notation (`npm view axe-core@4.10.3 dist`)."""
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "medsam2_atlas"
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
_GRAVE = ("serious", "critical")

SCRIPT = Path(os.environ.get("MEDSAM2_ATLAS_AXE", str(_CACHE / f"axe-{VERSION}.min.js")))
"""The script of axe-core; it exists only if it was fetched."""


def fetch() -> None:
    """Downloads axe-core, unless it is there.

    Raises:
        SystemExit: the archive is not the pinned one.
    """
    if SCRIPT.is_file():
        return
    with urllib.request.urlopen(_URL, timeout=60) as answer:
        archive = answer.read()
    if "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode() != _INTEGRITY:
        raise SystemExit(f"{_URL} has another SHA-512 than the pinned one. Nothing was installed.")
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
        content = packed.extractfile("package/axe.min.js")
        assert content is not None
        SCRIPT.parent.mkdir(parents=True, exist_ok=True)
        SCRIPT.write_bytes(content.read())


def violations(page: Any) -> list[str]:
    """Returns the serious and critical violations on a page, each with its rule and elements.

    The browser runs the script as a debugger would, so that the page's policy need not allow it.
    """
    page.evaluate(SCRIPT.read_text(encoding="utf-8"))
    found = page.evaluate("rules => axe.run(document, { runOnly: rules })", _RULES)
    return [
        f"{one['id']} ({one['impact']}): {one['help']}; " + " | ".join(node["html"][:160] for node in one["nodes"][:3])
        for one in found["violations"]
        if one["impact"] in _GRAVE
    ]


if __name__ == "__main__":
    fetch()
    print(f"axe-core {VERSION} is in {SCRIPT}.")
