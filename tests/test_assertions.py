"""Each test can fail: it has an assertion itself, or calls a function of the tests that has one."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent
_EXPECTED = {"raises", "warns", "fail", "deprecated_call"}
"""Functions of pytest that state what a test expects."""


def names(node: ast.AST) -> set[str]:
    """Returns the names that code mentions."""
    found = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return found | {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}


def asserts(node: ast.AST) -> bool:
    """Returns whether code asserts something itself; also by functions such as `np.testing.assert_allclose`."""
    if any(isinstance(inner, ast.Assert) for inner in ast.walk(node)):
        return True
    return any(name in _EXPECTED or name.startswith("assert_") for name in names(node))


def functions(source: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def without_assertion(sources: dict[str, str]) -> list[str]:
    """Returns the tests that cannot fail, as `file: test`. sources: the code of all files by name."""
    found = {name: functions(source) for name, source in sources.items()}
    helpers = [one for parts in found.values() for one in parts if not one.name.startswith("test_")]
    asserting = {one.name for one in helpers if asserts(one)}
    while more := {one.name for one in helpers if one.name not in asserting and names(one) & asserting}:
        asserting |= more
    tests = [(name, one) for name, parts in found.items() for one in parts if one.name.startswith("test_")]
    return [f"{name}: {one.name}" for name, one in tests if not (asserts(one) or names(one) & asserting)]


def test_each_test_asserts_something() -> None:
    sources = {str(file.relative_to(TESTS)): file.read_text(encoding="utf-8") for file in sorted(TESTS.rglob("*.py"))}
    assert without_assertion(sources) == []


def test_a_test_without_an_assertion_is_found() -> None:
    code = "def check(x):\n    assert x\n\ndef test_one():\n    check(1)\n\ndef test_two():\n    print(1)\n"
    assert without_assertion({"a.py": code}) == ["a.py: test_two"]
