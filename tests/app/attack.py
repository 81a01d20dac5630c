"""Sends mutated image files to all routes of a running server that accept files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import requests

from imaging.decoding.mutations import FORMATS, mutated, originals

_SECONDS = 180


def attack(url: str, seed: int, count: int, folder: Path) -> Counter[tuple[str, int]]:
    """Sends mutated files and returns the number of answers by route and status.

    Label maps go to a study of their size, images become studies, and slices of a DICOM series become sessions that a model
    then opens. The studies are removed again.
    """
    draw, session = np.random.default_rng(seed), requests.Session()
    sources = originals(folder)
    slices = [file.read_bytes() for file in sorted((folder / "series").iterdir())]
    answers: Counter[tuple[str, int]] = Counter()
    assert _put(session, f"{url}/datastore/image?image=base", "file", ".nrrd", sources[".nrrd"]) == 200
    for n in range(count):
        suffix = FORMATS[n % len(FORMATS)]
        content = mutated(sources[suffix], suffix, draw)
        if suffix == ".dcm":
            route, answer = "session", _open_series(session, url, [content, *slices[1:]])
        elif n % 2:
            route, answer = "label", _put(session, f"{url}/datastore/label?image=base&tag=fuzz", "label", suffix, content)
        else:
            route, answer = "image", _put(session, f"{url}/datastore/image?image=fuzz", "file", suffix, content)
            if answer == 200:
                session.delete(f"{url}/datastore/image", params={"id": "fuzz"}, timeout=_SECONDS)
        answers[route, answer] += 1
    session.delete(f"{url}/datastore/image", params={"id": "base"}, timeout=_SECONDS)
    return answers


def _put(session: requests.Session, address: str, field: str, suffix: str, content: bytes) -> int:
    files = {field: (f"x{suffix}", content)}
    return session.put(address, files=files, timeout=_SECONDS).status_code


def _open_series(session: requests.Session, url: str, slices: list[bytes]) -> int:
    files = [("files", (f"{n}.dcm", content)) for n, content in enumerate(slices)]
    made = session.put(f"{url}/session/", files=files, timeout=_SECONDS)
    if made.status_code != 200:
        return made.status_code
    name = made.json()["session_id"]
    query = {"session_id": name, "output": "json"}
    answer = session.post(f"{url}/infer/atlas", params=query, timeout=_SECONDS)
    session.delete(f"{url}/session/{name}", timeout=_SECONDS)
    return answer.status_code
