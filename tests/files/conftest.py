"""Starts a server without models, which accepts images and label maps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.running import server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(tmp_path_factory.mktemp("studies"), tmp_path_factory.mktemp("server"), {"learning": "false"}) as client:
        yield client.get_server_url().rstrip("/")
