"""URLs of servers are distinguished from folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base.urls import is_url


@pytest.mark.parametrize("text", ["http://pacs:8042/dicom-web", "https://pacs.example.org", "https://"])
def test_addresses_of_http_servers_are_urls(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["", "studies", "/http://x", "ftp://pacs", "http:/x", Path("/data/studies"), " http://x"])
def test_other_locations_are_folders(text: str | Path) -> None:
    assert not is_url(text)
