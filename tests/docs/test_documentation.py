"""The documentation is true: its links lead somewhere, its commands exist, and its generated parts are of today."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import commands_page
import troubleshooting_page
from docs.pages import DOCS, PAGES, ROOT, anchors, blocks, command_lines, links, text_of
from messages import messages

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(name: str) -> None:
    page = ROOT / name
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link} leads out of the site"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_the_options_that_a_page_gives_it(name: str) -> None:
    if name == "CHANGELOG.md":
        return  # earlier versions had other options
    for words in command_lines(ROOT / name):
        if "medsam2-atlas" in words[:2]:
            check_command(words[words.index("medsam2-atlas") + 1 :])
        elif words[0] == "make":
            targets = set(re.findall(r"^([a-z0-9-]+):", text_of(ROOT / "Makefile"), re.M))
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        elif words[0].startswith("python") and words[1].endswith(".py"):
            script = (ROOT / words[1]).read_text()
            for option in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
                assert f'"{option}"' in script, words


def check_command(words: list[str]) -> None:
    """Follows words through groups of commands; fails at a command or option that does not exist."""
    from typer.main import get_command

    from medsam2_atlas.cli import app

    command: Any = get_command(app)
    given = [word for word in words if word not in ("--verbose", "-v")]
    while hasattr(command, "commands"):
        assert given and given[0] in command.commands, words
        command = command.commands[given.pop(0)]
    options = {option: p for p in command.params for option in (*p.opts, *p.secondary_opts) if option.startswith("-")}
    places, arguments = [p for p in command.params if p.param_type_name == "argument"], 0
    while given:
        word = given.pop(0)
        if word in ("|", ">", "&", ";", "&&", "2>&1"):
            break
        name, equals, _ = word.partition("=")
        if not word.startswith("-"):
            arguments += 1
        elif name not in ("--help", "--version"):
            assert name in options, f"{name} in {words}"
            if not options[name].is_flag and not equals:
                assert given, words
                given.pop(0)
    needed = sum(p.required for p in places)
    assert arguments >= needed, words
    assert arguments <= len(places) or any(p.nargs == -1 for p in places), words


def test_a_wrong_command_is_found() -> None:
    for wrong in (["segmentt", "CT"], ["segment"], ["segment", "CT", "--nothing"], ["atlas", "build", "REFS"]):
        with pytest.raises(AssertionError):
            check_command(wrong)
    check_command(["segment", "CT", "-o", "label.nii.gz", "--atlas=ATLAS"])


@pytest.mark.parametrize("name", NAMES)
def test_commands_stand_in_blocks_for_the_shell(name: str) -> None:
    if name != "CHANGELOG.md":
        for language in ("", "bash", "shell", "console"):
            assert not any("medsam2-atlas " in block or "make " in block for block in blocks(ROOT / name, language))


def test_pages_list_the_commands_and_messages_of_today() -> None:
    for page in (commands_page, troubleshooting_page):
        assert page.PAGE.file.read_text(encoding="utf-8") == page.PAGE.replaced(page.content()), page.PAGE.target


def test_every_error_message_says_what_to_do() -> None:
    # An error that passes on another one's text has its remedy from there.
    missing = [m for m in messages() if not m.remedy and m.text.strip("…: .") and not m.text.endswith((": …", ": …."))]
    assert [(m.place, m.text) for m in missing] == []


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    def files(entry: Any) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        return set().union(*(files(item) for item in (entry.values() if isinstance(entry, dict) else entry)))

    listed = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_every_package_of_the_library_has_a_page_of_its_interface() -> None:
    library = ROOT / "lib" / "medsam2_atlas"
    packages = {file.parent.name for file in library.glob("*/__init__.py")} - {"cli", "resources"}
    pages = {page.stem for page in (DOCS / "api").glob("*.md")} - {"index"}
    assert pages == packages
    for name in packages:
        assert f"::: medsam2_atlas.{name}\n" in text_of(DOCS / "api" / f"{name}.md")
        assert f"({name}.md)" in text_of(DOCS / "api" / "index.md")


def test_the_readme_is_short_and_its_badges_are_true() -> None:
    text = text_of(ROOT / "README.md")
    assert len(text.splitlines()) < 120
    assert len(re.findall(r"^!\[", text, re.M)) == 6
    if sys.version_info >= (3, 11):
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["project"]["requires-python"]).groups()  # type: ignore[union-attr]
        assert f"badge/python-3.{low}_to_3.{int(high) - 1}-" in text
        assert f"badge/license-{project['project']['license'].replace('-', '--')}-" in text
        assert project["tool"]["mypy"]["strict"] is True
        assert "badge/types-mypy_strict-" in text
        assert "ruff" in project["tool"]


def test_the_site_is_built_without_warnings_and_asks_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = re.compile(
        r"<(?:script|img|iframe|link rel=\"(?:stylesheet|icon|preload|preconnect)\")[^>]*(?:src|href)=\"(?:https?:)?//"
    )
    for page in tmp_path.rglob("*.html"):
        assert not asked.search(page.read_text(encoding="utf-8")), page.name
    assert "prompting region" in (tmp_path / "search" / "search_index.js").read_text(encoding="utf-8")
    assert 'id="medsam2_atlas.registration.Transform"' in (tmp_path / "api" / "registration.html").read_text(encoding="utf-8")
