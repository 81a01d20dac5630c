"""Writes docs/troubleshooting.md: all error messages that users may meet, with their remedies (`make troubleshooting`)."""

from __future__ import annotations

from collections import defaultdict

from generated_part import GeneratedPart
from messages import Message, messages

PAGE = GeneratedPart("troubleshooting.md", "troubleshooting")

AREAS = {
    "Images, label maps and DICOM": ("imaging", "dicom"),
    "Command line": ("cli",),
    "Atlas and registration": ("atlas", "registration", "scoremaps", "prompting"),
    "Weights, GPUs and settings": ("base", "medsam2"),
    "Segmenters": ("segmenters", "studies", "tasks"),
    "U-Net training, comparison and scores": (
        "unet",
        "evaluation",
        "comparison",
        "experiment",
        "datasets",
        "active_learning",
        "demo",
    ),
    "Studies and label maps": ("storage", "datastores"),
    "Server and logins": ("server", "main", "access", "audit"),
    "Batches and clusters": ("batch",),
    "Backup, restore and erasing": ("archive", "erasing"),
}
"""Headings, and the folders whose messages stand below them."""


def content() -> str:
    """Returns a table of messages and remedies for each area."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for message in messages():
        found[_area(message)].add((_cell(message.text), _cell(message.remedy)))
    return "\n\n".join(f"### {area}\n\n| message | what to do |\n| --- | --- |\n{_rows(found[area])}" for area in AREAS)


def _area(message: Message) -> str:
    return next(area for area, rooms in AREAS.items() if message.room in rooms)


def _rows(pairs: set[tuple[str, str]]) -> str:
    return "\n".join(f"| {text} | {remedy} |" for text, remedy in sorted(pairs) if text.strip("…: ."))


def _cell(text: str) -> str:
    """Returns a text as it stands in a cell of a Markdown table."""
    plain = " ".join(text.split())
    for sign in "\\`*_[]<>|{}":
        plain = plain.replace(sign, f"\\{sign}")
    return plain


if __name__ == "__main__":
    PAGE.write(content())
