"""Runs a real headless Chromium for tests of OHIF and of reports."""

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
    """Returns the path of the browser; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


_OWN = re.compile(r"^(http://127\.0\.0\.1|blob:|data:)")
_PREFIX = "policy violation: "
_REPORTS = f"""addEventListener('securitypolicyviolation', event => console.error(
    '{_PREFIX}' + [event.violatedDirective, event.blockedURI, event.sourceFile, event.lineNumber, event.sample].join(' ')))"""


def forbidden(page: playwright.Page, own: re.Pattern[str] = _OWN) -> list[str]:
    """Returns a list to which the page's policy violations, and requests other than `own`, are added from now on."""
    found: list[str] = []
    page.add_init_script(_REPORTS)
    words = (_PREFIX, "Content Security Policy", "Content-Security-Policy")
    page.on("console", lambda message: found.append(message.text) if any(word in message.text for word in words) else None)
    page.on("request", lambda request: None if own.match(request.url) else found.append(request.url))
    return found


@contextmanager
def browser_page(own: re.Pattern[str] = _OWN) -> Iterator[playwright.Page]:
    """Yields a page that can reach this machine only, or `own`; otherwise it would wait for unreachable files such as fonts."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium_program(), args=FLAGS)
        try:
            page = browser.new_context(viewport={"width": 1600, "height": 900}).new_page()
            page.route(lambda url: not own.match(url), lambda route: route.abort())
            yield page
        finally:
            browser.close()
