"""Prints the largest modules, the longest functions and the functions with the most parameters of the product code.

    python bench/sizes.py [FOLDER]

FOLDER is the root of a checkout; the default is this checkout. The lines of a function are counted from `def` to its end,
without the docstring and decorators. `self` and `cls` do not count as parameters. The functions of commands are listed
separately, because their parameters are the command line's options.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOMS = ("lib/medsam2_atlas", "apps/medsam2_atlas")
MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 350, 50, 8
ROWS = 10


@dataclass(frozen=True)
class Function:
    """The place, number of lines and number of parameters of a function, and whether it is a command."""

    place: str
    lines: int
    parameters: int
    command: bool


def modules(root: Path) -> dict[str, int]:
    """Returns the number of lines of each module of library and app, by its path below the root."""
    files = sorted(file for room in ROOMS for file in (root / room).rglob("*.py"))
    return {str(file.relative_to(root)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}


def functions(root: Path) -> list[Function]:
    """Returns all functions and methods of library and app; an inner function also counts as part of its outer function."""
    found: list[Function] = []
    for name in modules(root):
        tree = ast.parse((root / name).read_text(encoding="utf-8"))
        found += [_measured(f"{name.split('medsam2_atlas/', 1)[1]} {qualified}", node) for qualified, node in _inside(tree, "")]
    return found


def _inside(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, node
        named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        yield from _inside(node, f"{prefix}{node.name}." if named else prefix)


def _measured(place: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    extra = sum(a is not None for a in (arguments.vararg, arguments.kwarg))
    command = node.name.endswith("_command")
    lines = (node.end_lineno or 0) - node.lineno + 1 - docstring
    return Function(place, lines, len([n for n in names if n not in ("self", "cls")]) + extra, command)


def _print(title: str, rows: Sequence[tuple[int, str]], limit: int) -> None:
    rows = sorted(rows, key=lambda row: (-row[0], row[1]))
    print(f"\n{title} (over {limit}: {sum(value > limit for value, _ in rows)})")
    for value, place in rows[:ROWS]:
        print(f"{value:5d}  {place}")


def main(root: Path) -> None:
    """Prints the tables."""
    sizes, found = modules(root), functions(root)
    commands, others = [f for f in found if f.command], [f for f in found if not f.command]
    print(f"{len(sizes)} modules, {sum(sizes.values())} lines, {len(found)} functions")
    _print("lines of modules", [(lines, name) for name, lines in sizes.items()], MAX_MODULE_LINES)
    _print("lines of functions", [(f.lines, f.place) for f in others], MAX_FUNCTION_LINES)
    _print("parameters of functions", [(f.parameters, f.place) for f in others], MAX_PARAMETERS)
    _print("lines of commands", [(f.lines, f.place) for f in commands], MAX_FUNCTION_LINES)
    _print("parameters of commands", [(f.parameters, f.place) for f in commands], MAX_PARAMETERS)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent)
