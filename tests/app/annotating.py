"""Requests of an annotator's viewer to the real server, for tests of `/annotation`."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
import SimpleITK as sitk

from app.running import server
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.packed_labels import pack
from token_files import bearer, token_of, tokens_for

KIM, LEE, REVA = ("kim", "lee", "reva")
STUDIES = ("opened", "twice", "kept", "marked", "compared", "removed", "foreign", "used")


@contextmanager
def annotated(image: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the server's URL and the studies folder. The CTs have the orientation PIR.

    Args:
        image: the CT of all cases.
        folder: an empty folder for everything.
    """
    (folder / "studies").mkdir()
    turned = sitk.DICOMOrient(sitk.ReadImage(str(image)), "PIR")
    for name in STUDIES:
        sitk.WriteImage(turned, str(folder / "studies" / f"{name}.nii.gz"))
    sample = next(resource("sample-data").glob("targets/images/*"))
    shutil.copy(sample, folder / "studies" / "sample.nii.gz")
    tokens = tokens_for(folder / "tokens.yaml", {KIM: "annotator", LEE: "annotator", REVA: "reviewer", "max": "admin"})
    conf = {
        "atlas": str(folder / "none"),
        "learning": "false",
        "server_label_mb": "1",
        "server_drafts_mb": "1",
        "server_tokens": str(tokens),
    }
    with server(folder / "studies", folder / "server", conf, token=token_of("max")) as client:
        yield str(client.get_server_url()).rstrip("/"), folder / "studies"


def ask(url: str, method: str, path: str, who: str = KIM, **options: Any) -> requests.Response:
    params = {key: value for key, value in options.items() if key not in ("data", "files", "headers")}
    more = {key: options[key] for key in ("data", "files") if key in options}
    headers = bearer(token_of(who)) | options.get("headers", {})
    return requests.request(method, f"{url}/annotation/{path}", params=params, headers=headers, timeout=120, **more)


def case(url: str, image: str, who: str = KIM) -> Any:
    answer = ask(url, "GET", "case", who, image=image)
    assert answer.status_code == 200, answer.text
    return answer.json()


def voxels(answer: requests.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    shape = tuple(int(count) for count in answer.headers["X-Shape"].split(","))
    return np.frombuffer(gzip.decompress(answer.content), np.uint8).reshape(shape)


def submit(url: str, image: str, labels: np.ndarray, who: str = KIM, **options: Any) -> requests.Response:
    return ask(url, "POST", "submit", who, image=image, data=pack(labels), **options)
