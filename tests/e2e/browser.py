"""A real headless Chromium on the real OHIF."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

playwright = pytest.importorskip("playwright.sync_api")

FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def chromium_program() -> str | None:
    """The browser, where it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def browser_page() -> Iterator[playwright.Page]:
    """A page that reaches this machine only: a page waits for what cannot be had, such as fonts."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium_program(), args=FLAGS)
        try:
            page = browser.new_context(viewport={"width": 1600, "height": 900}).new_page()
            page.route(lambda url: not re.match(r"^(http://127\.0\.0\.1|blob:|data:)", url), lambda route: route.abort())
            yield page
        finally:
            browser.close()
