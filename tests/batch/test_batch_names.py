"""Names of outputs: safe, different, and stable."""

from __future__ import annotations

from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from medsam2_atlas.batch.names import Names, is_safe_name, safe_name


@given(st.text(max_size=400))
def test_no_text_from_outside_names_a_file_elsewhere(text: str) -> None:
    name = safe_name(text)
    assert PurePosixPath(name).name == name
    assert not name.startswith((".", "-"))
    assert 0 < len(name.encode(errors="surrogateescape")) <= 120
    assert name.isprintable()


@given(st.lists(st.text(max_size=12), unique=True, max_size=20))
def test_different_inputs_never_share_a_name(keys: list[str]) -> None:
    names = Names()
    found = [names.of(key, key) for key in keys]
    assert len({name.casefold() for name in found}) == len(keys)


@given(st.text(max_size=400))
def test_each_name_that_is_given_is_safe_and_paths_are_not(text: str) -> None:
    names = Names()
    assert all(is_safe_name(names.of(key, text)) for key in ("a", "b"))
    assert not is_safe_name(f"../{text}") and not is_safe_name(f"{text}/x") and not is_safe_name(text + "\0")


def test_known_names_that_are_equal_become_different() -> None:
    names = Names({"a.nii": "ct", "b.nii": "CT"})
    assert names.of("a.nii", "x").casefold() != names.of("b.nii", "x").casefold()


def test_new_inputs_do_not_rename_old_outputs() -> None:
    names = Names({"a/ct.nii": "ct"})
    assert names.of("b/ct.nii", "ct").startswith("ct-")
    assert names.of("a/ct.nii", "ct") == "ct"
    assert names.of("c/CT.nii", "CT") != "CT"
