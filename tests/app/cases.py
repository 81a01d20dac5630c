"""Requests all pages of a server's worklist."""

from __future__ import annotations

from typing import Any

import requests


def listed(url: str, session: Any = requests, **query: Any) -> dict[str, dict[str, Any]]:
    """Returns the rows of a server's worklist by study, in their order.

    Args:
        url: address of the server.
        session: what sends the requests, such as a `requests.Session` of a person who is logged in.
        query: further parameters of `/worklist/cases`.
    """
    found: dict[str, dict[str, Any]] = {}
    page, pages = 1, 1
    while page <= pages:
        answer = session.get(f"{url}/worklist/cases", params={"page": page, "size": 200} | query, timeout=60)
        assert answer.status_code == 200, answer.text
        content = answer.json()
        found |= {row["study"]: row for row in content["rows"]}
        page, pages = page + 1, content["pages"]
    return found
