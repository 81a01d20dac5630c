"""The documentation's pages, and what is checked in them: links, commands and code blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_AT_THE_TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in _AT_THE_TOP), *sorted(DOCS.rglob("*.md"))]

_HERE_DOCUMENT = re.compile(r"(<<'(\w+)'[^\n]*\n).*?^\2$", re.M | re.S)
_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.M | re.S)


@cache
def text_of(page: Path) -> str:
    """Returns the text of a page."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> Iterator[str]:
    """Yields the code blocks of a language, without the indentation of lists and admonitions."""
    for indent, found, content in _BLOCK.findall(text_of(page)):
        if found == language:
            yield re.sub(rf"^{indent}", "", content, flags=re.M)


def links(page: Path) -> Iterator[str]:
    """Yields the targets of links and pictures that lie in this repository, code excluded."""
    prose = re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", text_of(page)))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as MkDocs forms them."""
    from markdown.extensions.toc import slugify

    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?)\s*$", _BLOCK.sub("", text_of(page)), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug, number = slugify(plain, "-"), 0
        while (anchor := f"{slug}_{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yields the words of each command in a page's `sh` blocks, without comments and the bodies of here-documents."""
    for block in blocks(page, "sh"):
        commands = _HERE_DOCUMENT.sub(r"\1", block).replace("\\\n", " ")
        for line in commands.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words
