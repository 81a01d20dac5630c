"""Docstrings: public functions say what their arrays are, begin with what they do, and their examples are right."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "lib" / "medsam2_atlas", ROOT / "apps" / "medsam2_atlas")
FILES = [file for folder in FOLDERS for file in sorted(folder.rglob("*.py"))]

ARRAY = re.compile(r"\b(ndarray|Tensor)\b")
_AXIS = r"(z|y|x|n|c|channel|batch|organ|slice|point|bin|row|token|frame|box|[2-4])s?'?"
AXES = re.compile(
    rf"\[[^\]\n]*\b{_AXIS}\b[^\]\n]*\]|\bshapes?\b|\bscalar\b|\b(no|list of) arrays\b|\bnumber of axes\b", re.IGNORECASE
)
"""A shape with named axes, such as `[z, y, x]`, or a sentence on the shape."""


def public_functions(file: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yields name and definition of the public functions and methods of a module."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def has_array(node: ast.FunctionDef) -> bool:
    """Returns whether a function takes or returns an array."""
    notes = [a.annotation for a in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
    return any(note is not None and ARRAY.search(ast.unparse(note)) for note in notes)


def test_public_functions_state_the_axes_of_their_arrays() -> None:
    found = [(file, name, node) for file in FILES for name, node in public_functions(file) if has_array(node)]
    assert len(found) > 100
    silent = [
        f"{file.relative_to(ROOT)}: {name}" for file, name, node in found if not AXES.search(ast.get_docstring(node) or "")
    ]
    assert silent == []


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    # The indicative: Returns, Reads, Is …; properties and fixtures are described by a noun.
    wrong = []
    for file in FILES:
        for name, node in public_functions(file):
            text = ast.get_docstring(node)
            decorators = {ast.unparse(d).rpartition(".")[2] for d in node.decorator_list}
            if not text or decorators & {"property", "cached_property"} or "cli" in file.parts:  # help texts are imperatives
                continue
            first = text.split()[0].rstrip(",.:;")
            if not (first.endswith("s") and first[0].isupper()) or first in ("As", "Whether", "This", "Its"):
                wrong.append(f"{file.relative_to(ROOT)}: {name}: {text.splitlines()[0]}")
    assert wrong == []


@pytest.mark.parametrize(
    "file", [file for file in FILES if ">>> " in file.read_text(encoding="utf-8")], ids=lambda file: file.stem
)
def test_examples_in_docstrings_are_right(file: Path) -> None:
    (folder,) = (folder for folder in FOLDERS if file.is_relative_to(folder))
    root = folder if folder.parent.name == "apps" else folder.parent
    module = importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed
