"""Downloads a file that the user asked for. Only `weights fetch` and `viewer fetch` call this."""

from __future__ import annotations

import shutil
from pathlib import Path

from medsam2_atlas.base.errors import UnavailableError
from medsam2_atlas.base.progress import Progress

_BLOCK = 1 << 20


def download(url: str, target: Path, progress: Progress) -> None:
    """Downloads a file to `target`.partial, resuming an earlier download, and then renames it to `target`.

    The proxies of the environment (`https_proxy`, `no_proxy`) are used.

    Args:
        url: address of the file.
        target: file to write; an existing one is replaced at the end.
        progress: called with the step `download` and the fraction completed, 0..1.

    Raises:
        UnavailableError: the server cannot be reached or returns an error; the partial file is kept.
    """
    import urllib.error
    import urllib.request
    from http import HTTPStatus
    from http.client import HTTPException

    partial = target.with_name(target.name + ".partial")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            if have and answer.status != HTTPStatus.PARTIAL_CONTENT:
                have = 0  # the server sends the whole file
            total = have + int(answer.headers.get("Content-Length", 0))
            with partial.open("ab" if have else "wb") as stream:
                while block := answer.read(_BLOCK):
                    stream.write(block)
                    progress("download", min(1.0, stream.tell() / total) if total else 0.0)
            if total and partial.stat().st_size != total:
                remedy = "Run the same command again; it resumes the download."
                raise UnavailableError(url, "was downloaded only in part.", remedy)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            pass  # the partial file is already complete
        else:
            raise UnavailableError(url, f"cannot be downloaded ({error}).", "Check its address in configs/.") from error
    except (OSError, ValueError, HTTPException) as error:
        remedy = "Check the network, or copy the file by hand: see docs/install.md."
        raise UnavailableError(url, f"cannot be downloaded ({error}).", remedy) from error
    shutil.move(partial, target)
