"""docs/security.md names existing tests, and the code's durations and sizes."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def rows(heading: str) -> list[list[str]]:
    """Returns the cells of the table below a heading, without the table's header."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_the_page_names_exists(file: str) -> None:
    text = (ROOT / file).read_text()
    for name in (name for named, name in NAMED if named == file):
        assert re.search(rf"^(async )?def {name}\(", text, re.M), name


def test_each_threat_has_a_defence_and_a_test() -> None:
    threats = rows("Threats")
    assert len(threats) > 30
    for threat in threats:
        _, attempt, answer, tests = threat
        assert attempt and answer
        assert re.fullmatch(r"`tests/[\w/]+\.py::\w+`(, `tests/[\w/]+\.py::\w+`)*", tests), attempt


def test_retention_times_are_those_on_the_page() -> None:
    import medsam2_atlas.cli.endings as endings
    from medsam2_atlas.base import jobs

    until = {cells[0].split(" ")[0]: cells[-1] for cells in rows("What is kept, and for how long")}
    spec = find_spec("monailabel")
    assert spec is not None and spec.origin
    handler = json.loads(Path(spec.origin).with_name("logging.json").read_text())["handlers"]["file_handler"]
    assert until["log"].startswith(f"{handler['backupCount'] + 1} files of {handler['maxBytes'] // 2**20} MB;")
    logging = yaml.safe_load((ROOT / "compose.yaml").read_text())["x-confined"]["logging"]["options"]
    assert until["log"].endswith(f"{logging['max-file']} files of {logging['max-size'].replace('m', ' MB')}")
    assert until["tracebacks"] == f"the {endings._KEPT} newest"
    assert (jobs._KEPT_SECONDS, until["results"].split(",")[0]) == (600, "ten minutes")
    assert re.search(r"MONAI_LABEL_SESSION_EXPIRY: int = 3600\b", Path(spec.origin).with_name("config.py").read_text())
    assert until["sessions"].startswith("one hour")


def test_the_short_page_links_to_the_long_one() -> None:
    assert "(docs/security.md)" in (ROOT / "SECURITY.md").read_text()
    for name in re.findall(r"\]\(#([\w-]+)\)", PAGE):
        assert f"## {name.replace('-', ' ').capitalize()}" in PAGE
