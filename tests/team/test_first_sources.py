"""A prediction is never compared with a final version that its model may have learnt from; a guess is no source."""

from __future__ import annotations

from typing import Any

import pytest

from medsam2_atlas.storage import Version
from medsam2_atlas.team import first_source, independent_of, own_versions, source_of, unseen_prediction

UNKNOWN = object()


def final(number: int, base: Any = UNKNOWN, *, author: str = "kim", minute: int | None = None, **more: Any) -> Version:
    """Returns a version that was signed off in the viewer from a base such as `("final", 1)`; None: an empty label map."""
    info: dict[str, Any] = {"from": "viewer"} if base is not UNKNOWN else {}
    if base is not UNKNOWN:
        info["base"] = None if base is None else {"tag": base[0], "version": base[1]}
    made = f"2026-11-27T10:{number if minute is None else minute:02d}:00.000+00:00"
    return Version(number, f"{number}.nii.gz", f"sum{number}", "person", author, made, info, "image", **more)


def prediction(number: int, minute: int, **more: Any) -> Version:
    fields = {"image_sha256": "image"} | more
    return Version(number, f"{number}.nii.gz", f"p{number}", "model", made=f"2026-11-27T10:{minute:02d}:00+00:00", **fields)


def test_the_newest_prediction_before_the_first_sign_off_is_compared() -> None:
    finals = [final(1, minute=30), final(2, minute=50)]
    made = [prediction(1, 10), prediction(2, 20), prediction(3, 40)]
    found = unseen_prediction(made, finals)
    assert found is not None
    assert found.number == 2  # the third one was made after the first sign-off: its model may have learnt from it
    assert unseen_prediction([prediction(1, 30)], finals) is None  # within the same second
    assert unseen_prediction(made[2:], finals) is None
    assert unseen_prediction(made, []) is None
    assert unseen_prediction([prediction(1, 10, image_sha256="another image")], finals) is None
    assert unseen_prediction([prediction(1, 10, image_sha256="")], finals) is not None
    assert unseen_prediction([final(1, minute=10)], finals) is None  # a person's label map under the model's tag


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (("atlas", 1), "atlas"),
        (("final", 1), "atlas"),
        (("final", 2), ""),
        (("final", 3), None),
        (("final", 9), None),
        (None, ""),
    ],
)
def test_the_first_source_of_a_version_is_found_by_way_of_other_versions(base: Any, expected: str | None) -> None:
    versions = [final(1, ("atlas", 1)), final(2, None), final(3), final(5, ("final", 5))]
    known = {version.number: version for version in versions}
    found = first_source(final(4, base), lambda tag, number: known.get(number) if tag == "final" else None)
    assert (found.tag if found is not None else None) == expected
    restored = final(6, base, minute=6)
    restored = Version(7, "7", "sum", "restored", "lee", "", {**restored.info, "restored_from": 1})
    found = first_source(restored, lambda tag, number: known.get(number))
    assert found is not None
    assert found.tag == "atlas"
    assert first_source(known[5], lambda tag, number: known.get(number)) is None  # a damaged record that names itself


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ([("final", 1)], False),
        ([None], True),
        ([("atlas", 1)], True),
        ([("atlas", 2)], None),  # made after the first final version, so its model may have learnt from it
        ([UNKNOWN], None),
        ([("final", 9)], None),  # its record is missing
        ([("draft", 1)], None),
    ],
)
def test_a_version_is_independent_only_if_the_records_tell_so(chain: list[Any], expected: bool | None) -> None:
    first, later = final(1, ("atlas", 1)), final(2, chain[0], author="lee")
    known = {("final", 1): first, ("final", 2): later, ("atlas", 1): prediction(1, 0), ("atlas", 2): prediction(2, 59)}
    assert independent_of(later, first, first, lambda tag, number: known.get((tag, number))) is expected


def test_a_version_is_not_independent_of_the_sources_of_its_source() -> None:
    one, two, three = final(1, None), final(2, ("final", 1), author="max"), final(3, ("final", 2), author="lee")
    found = {version.number: version for version in (one, two, three)}

    def find(tag: str, number: int) -> Version | None:
        return found.get(number) if tag == "final" else None

    assert independent_of(three, one, one, find) is False
    # made from an earlier version than the other person's
    found[3] = three = final(3, ("final", 1), author="lee")
    assert independent_of(three, two, one, find) is True
    # a restored version has the content of the earlier one
    restored = Version(4, "4", "sum2", "restored", "max", info={"restored_from": 2, "from": "viewer", "base": None})
    found |= {4: restored, 5: final(5, ("final", 4), author="lee")}
    assert independent_of(found[5], two, one, find) is False
    found[4] = Version(4, "4", "x", "restored", "max", info={"restored_from": 5})  # records that name each other
    assert independent_of(found[5], two, one, find) is None


def test_restored_confirmed_and_found_versions_are_nobodys_drawing() -> None:
    others = [
        final(2, None).__class__(2, "2", "s", "restored", "kim", info={"restored_from": 1}),
        Version(3, "3", "s", "person", "kim", info={"confirmed": 1}),
        Version(4, "4", "s", "found"),
        Version(5, "", "", "removed", "kim"),
    ]
    assert own_versions([final(1, None), *others]) == [final(1, None)]


@pytest.mark.parametrize("base", [3, [], {"tag": 3, "version": 1}, {"tag": "atlas"}, {"tag": "atlas", "version": "1"}])
def test_a_damaged_record_of_the_source_is_unknown(base: Any) -> None:
    assert source_of(Version(1, "1", "s", "person", info={"from": "viewer", "base": base})) is None
