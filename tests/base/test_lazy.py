"""Packages that import their names at first use."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("name", ["dicom", "demo.training", "unet"])
def test_every_exported_name_can_be_imported_and_no_other(name: str) -> None:
    package = importlib.import_module(f"medsam2_atlas.{name}")
    for exported in package.__all__:
        assert getattr(package, exported) is not None
    with pytest.raises(AttributeError, match=f"'medsam2_atlas.{name}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018 the access raises
