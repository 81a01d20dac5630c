"""Names of outputs: safe, different, and stable."""

from __future__ import annotations

from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from medsam2_atlas.batch.names import Names, safe_name


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


def test_new_inputs_do_not_rename_old_outputs() -> None:
    names = Names({"a/ct.nii": "ct"})
    assert names.of("b/ct.nii", "ct").startswith("ct-")
    assert names.of("a/ct.nii", "ct") == "ct"
    assert names.of("c/CT.nii", "CT") != "CT"
