"""Unknown names in requests are refused with the list of the known ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from medsam2_atlas.base.errors import NotFoundError, WeightsError
from tasks.known import check_model, check_name, check_strategy, check_study

STUDIES: Any = SimpleNamespace(list_images=lambda: ["a", "b"])


def never() -> dict[str, str]:
    raise AssertionError("an unknown model must be refused before it is checked whether it can run")


def test_only_known_names_pass() -> None:
    check_model("atlas", {"atlas": None})
    check_model("atlas", ["atlas"], lambda: {"unet_3d": "has no weights."})
    check_name("organs", ["organs"], "scoring method")
    check_strategy("random", ["random"])
    check_study("b", STUDIES)
    with pytest.raises(NotFoundError, match="'Organs': is not a known scoring method"):
        check_name("Organs", ["organs"], "scoring method")


def test_an_unknown_model_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(NotFoundError, match=r"'x': is not a known model\. Choose from: atlas, unet_3d\."):
        check_model("x", ["atlas", "unet_3d"], never)


def test_a_model_that_cannot_run_is_refused_with_the_reason() -> None:
    with pytest.raises(WeightsError, match=r"unet_3d: cannot run: has no weights\."):
        check_model("unet_3d", ["unet_3d"], lambda: {"unet_3d": "has no weights."})


def test_unknown_studies_and_strategies_are_refused() -> None:
    with pytest.raises(NotFoundError, match=r"'c': is not a known study\. Request /datastore for the list of studies\."):
        check_study("c", STUDIES)
    with pytest.raises(NotFoundError, match=r"'x': is not a known strategy\. Choose from: random\."):
        check_strategy("x", ["random"])


def test_long_names_are_shortened_in_errors() -> None:
    with pytest.raises(NotFoundError) as refused:
        check_study("x" * 10_000, STUDIES)
    assert len(str(refused.value)) < 200
