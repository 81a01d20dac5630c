"""JSON: texts from outside are checked, and stored content can always be sent."""

from __future__ import annotations

import json

import pytest

from medsam2_atlas.base.json_text import MAX_DEPTH, from_json, plain, stored_json, to_json


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        '{"a": [Infinity]}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": 18446744073709551616}',
        "1" * 5000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "[" * 100_000,
        '{"a": ' * 5000 + "1" + "}" * 5000,
        "{",
        "",
    ],
)
def test_values_that_json_cannot_represent_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        from_json(text)


def test_values_that_json_can_represent_are_read() -> None:
    content = {"ü": [1, 2.5, None, True, "x"], "big": 2**63 - 1, "deep": json.loads("[" * 30 + "]" * 30)}
    assert from_json(json.dumps(content)) == content
    assert from_json(json.dumps(content).encode()) == content


def test_values_that_json_lacks_are_replaced_instead_of_failing() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    text = to_json({"n": float("nan"), "i": [float("inf"), 1.0], "half": "a\ud800", "deep": deep, "good": "ü"})
    about = json.loads(text, parse_constant=pytest.fail)
    assert (about["n"], about["i"], about["half"], about["good"]) == (None, [None, 1.0], "a?", "ü")


def test_a_plain_copy_shares_nothing_with_its_original() -> None:
    content = {"a": {"b": [1]}}
    copy = plain(content)
    assert copy == content
    copy["a"]["b"].append(2)
    assert content["a"]["b"] == [1]


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[" * 600 + "]" * 600, '{"a": ' * 300 + "1" + "}" * 300])
def test_own_files_that_cannot_be_used_are_refused(text: str) -> None:
    for written in (text, text.encode()):
        with pytest.raises(ValueError):
            stored_json(written)


def test_own_files_of_earlier_versions_are_read() -> None:
    assert str(stored_json('{"dose": NaN, "deep": ' + "[" * 200 + "]" * 200 + "}")["dose"]) == "nan"
    assert len(stored_json(json.dumps([[n] for n in range(1000)]))) == 1000
