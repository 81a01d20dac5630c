"""Pins the base images of compose.yaml and the Dockerfiles by their digests: `make pin-images`.

A tag such as `caddy:2` names another image after each release; a digest names one image for good. An image that is pinned
already is looked up by its tag again, so the same command takes updates.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
FILES = ("compose.yaml", "deploy/app.Dockerfile", "deploy/orthanc.Dockerfile")
_IMAGE = re.compile(r"^(\s*image:\s*|FROM\s+)([\w./:-]+?)(@sha256:[0-9a-f]{64})?(?=\s|$)", re.MULTILINE)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TOLD = re.compile(r"^Digest: (sha256:[0-9a-f]{64})$", re.MULTILINE)


class PinningError(Exception):
    """No engine is here, or it does not find an image."""


def find_engine() -> str:
    """Returns the engine that can be asked: Docker, else Podman."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    raise PinningError("Neither Docker nor Podman runs here: start one, or call this on the machine that builds the images.")


def digest_of(engine: str, image: str) -> str:
    """Fetches an image by its tag, and returns the digest that the registry has for it."""
    pulled = subprocess.run([engine, "pull", image], capture_output=True, text=True)
    if pulled.returncode:
        raise PinningError(f"{image} cannot be fetched: {pulled.stderr.strip() or pulled.stdout.strip()}")
    told = _TOLD.search(pulled.stdout)
    if told:  # by Docker; Podman tells no digest
        return told.group(1)
    every = "{{range .RepoDigests}}{{println .}}{{end}}"
    shown = subprocess.run([engine, "image", "inspect", "--format", every, image], capture_output=True, text=True)
    for line in shown.stdout.split():
        name, _, digest = line.partition("@")
        if f"/{name}".endswith(f"/{image.partition(':')[0]}") and _DIGEST.fullmatch(digest):
            return digest
    raise PinningError(f"{engine} knows no digest of {image}. {shown.stderr.strip()}".strip())


def pin(folder: Path, engine: str) -> list[str]:
    """Writes the digests into the files; nothing is written if one cannot be found.

    Returns:
        The images with their digests.
    """
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in FILES}
    images = sorted({match.group(2) for text in texts.values() for match in _IMAGE.finditer(text)})
    digests = {image: digest_of(engine, image) for image in images}
    for name, text in texts.items():
        pinned = _IMAGE.sub(lambda match: f"{match.group(1)}{match.group(2)}@{digests[match.group(2)]}", text)
        if pinned != text:
            part = folder / f"{name}.part"
            part.write_text(pinned, encoding="utf-8")
            part.replace(folder / name)
    return [f"{image}@{digest}" for image, digest in digests.items()]


def main(folder: Path = FOLDER) -> int:
    """Pins, and prints what was pinned."""
    try:
        print("\n".join(pin(folder, find_engine())))
    except (PinningError, OSError) as error:
        print(f"Nothing was changed. {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
