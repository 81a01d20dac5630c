"""Self-contained HTML documents."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from medsam2_atlas.pages import document, embedded, text


def source(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def test_the_policy_allows_the_own_style_and_script_and_nothing_else() -> None:
    page = document("title", "<p>body</p>")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    (style,), (script,) = re.findall(r"<style>(.*?)</style>", page, re.S), re.findall(r"<script>(.*?)</script>", page, re.S)
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'{source(style)}'",
        "script-src": f"'{source(script)}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert page.index("Content-Security-Policy") < page.index("<style>")  # a policy applies only to what follows it


def test_the_title_is_escaped() -> None:
    assert "<title>a &lt;/title&gt;&lt;script&gt;</title>" in document("a </title><script>", "")


def test_texts_cannot_end_an_attribute_or_a_tag_or_reverse_their_neighbours() -> None:
    assert text("\"'<&>\u202e\n") == "&quot;&#x27;&lt;&amp;&gt;\\u202e\\n"
    assert text(0.5) == "0.5"


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"\x89PNG\r\n", "image/png"), (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"<?xml ?><svg/>", "image/svg+xml")],
)
def test_pictures_are_embedded_with_their_type(content: bytes, kind: str) -> None:
    assert embedded(content) == f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_other_files_are_not_embedded() -> None:
    with pytest.raises(ValueError, match="not a PNG, JPEG or SVG"):
        embedded(b"<html>")
