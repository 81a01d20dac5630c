"""Imports between rooms of the library follow the order in docs/architecture.md; the library never imports the app."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import medsam2_atlas

LIBRARY = Path(medsam2_atlas.__file__).parent
PAGE = LIBRARY.parents[1] / "docs" / "architecture.md"
APP = {"datastores", "server", "tasks", "main", "monailabel"}


def rooms() -> list[str]:
    """Returns all rooms in the order of the table in docs/architecture.md."""
    rows = re.findall(r"^\| (`[a-z0-9_`, ]+`) \|", PAGE.read_text(encoding="utf-8"), re.M)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def imports(source: str) -> Iterator[str]:
    """Yields the modules that a module imports when it is imported itself, without those in functions or for type checkers."""

    def walk(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, (ast.If, ast.Try, ast.With)) and "TYPE_CHECKING" not in ast.dump(node)[:200]:
                yield from walk(node.body)

    return walk(ast.parse(source).body)


def test_the_architecture_page_lists_every_room() -> None:
    packages = {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").is_file()}
    assert packages - {"resources"} == set(rooms())


def test_imports_between_rooms_follow_the_data_flow() -> None:
    order = {name: place for place, name in enumerate(rooms())}
    wrong = set()
    for file in LIBRARY.rglob("*.py"):
        room = file.relative_to(LIBRARY).parts[0]
        for module in imports(file.read_text(encoding="utf-8")):
            parts = module.split(".")
            assert parts[0] not in APP, f"{file} imports the app"
            if room in order and parts[0] == "medsam2_atlas" and order.get(parts[1], -1) > order[room]:
                wrong.add(f"{room} -> {parts[1]}: {file.relative_to(LIBRARY)}")
    assert not wrong, "\n".join(sorted(wrong))
