"""Collects the error messages of library and app from their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (ROOT / "lib" / "medsam2_atlas", ROOT / "apps" / "medsam2_atlas")
_ROOTS = (ROOT / "lib", ROOT / "apps" / "medsam2_atlas")
_PLAIN = {"BadParameter": 0, "HTTPException": 1, "UsageError": 0}
"""Errors of other libraries that users see, and which argument is the text."""


@dataclass(frozen=True, order=True)
class Message:
    """An error message. Parts that the program fills in are `…`.

    Attributes:
        room: folder of the module, such as `imaging` or `server`.
        text: subject and problem.
        remedy: what to do; empty if the message has none.
        place: file and line, for those who mend it.
    """

    room: str
    text: str
    remedy: str
    place: str = ""


def messages() -> Iterator[Message]:
    """Yields every message of an error that users meet, in the order of files and lines."""
    kinds = set(error_classes())
    for source in SOURCES:
        for file in sorted(source.rglob("*.py")):
            tree = _parsed(file)
            names = _constants(tree)
            room = file.relative_to(source).parts[0].removesuffix(".py")
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    place = f"{file.relative_to(ROOT)}:{node.lineno}"
                    given = {keyword.arg: keyword.value for keyword in node.keywords}
                    if name in kinds and len(node.args) + len(given) >= 2:
                        parts = [*node.args, *(given[key] for key in ("problem", "remedy") if key in given)]
                        subject, problem, remedy = [*(_text(part, names) for part in parts), "", ""][:3]
                        yield Message(room, f"{subject}: {problem}", remedy, place)
                    elif name in _PLAIN and (len(node.args) > _PLAIN[name] or "detail" in given):
                        text = _text(given["detail"] if "detail" in given else node.args[_PLAIN[name]], names)
                        problem, dot, remedy = text.partition(". ")
                        yield Message(room, problem + dot.strip(), remedy, place)


@cache
def error_classes() -> tuple[str, ...]:
    """Returns the names of the project's error classes that are made of a subject, a problem and a remedy."""
    tree = _parsed(SOURCES[0] / "base" / "errors.py")
    return tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef))


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Returns the values of a module's names, for messages that are constants; imported ones are included."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            file = next(
                (f for root in _ROOTS if (f := root.joinpath(*node.module.split(".")).with_suffix(".py")).is_file()), None
            )
            if file is not None and any(name.name.isupper() for name in node.names):
                values = _constants(_parsed(file))
                found |= {name.asname or name.name: values[name.name] for name in node.names if name.name in values}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
    return found


def _text(node: ast.expr, names: dict[str, ast.expr]) -> str:
    """Returns the text of an expression, with `…` for what is known at run time only."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, names) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        value = names.get(node.value.id) if isinstance(node.value, ast.Name) else None
        return str(value.value) if isinstance(value, ast.Constant) else "…"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, names) + _text(node.right, names)
    if isinstance(node, ast.IfExp):
        return " / ".join(filter(None, (_text(node.body, names), _text(node.orelse, names))))
    if isinstance(node, ast.Name) and node.id in names:
        return _text(names[node.id], {key: value for key, value in names.items() if key != node.id})
    return "…"
