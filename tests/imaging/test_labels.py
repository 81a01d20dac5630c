"""The organ table."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.labels import organ_table


def test_the_table_has_amos22s_order() -> None:
    names = [o.name for o in organ_table().organs]
    assert names[:4] == ["spleen", "right_kidney", "left_kidney", "gallbladder"]
    assert names[9:] == ["pancreas", "right_adrenal_gland", "left_adrenal_gland", "duodenum", "bladder", "prostate_uterus"]
    assert organ_table().indices == list(range(1, 16))


def test_organs_are_chosen_by_name_or_number() -> None:
    assert organ_table().select(["liver", " Right Kidney", "10"]) == [2, 6, 10]
    assert organ_table().select([]) == list(range(1, 16))
    with pytest.raises(InputError, match="heart"):
        organ_table().select(["heart"])


def test_unknown_keys_in_the_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("organs: []\nthreshold: 0.5\n")
    with pytest.raises(InputError, match="threshold"):
        organ_table(tmp_path / "t.yaml")
