"""`make pin-images`: pins the base images of compose.yaml and the Dockerfiles by their digests.

A tag such as `caddy:2` refers to another image after each release; a digest always refers to the same image. The command looks
up images that are already pinned by their tags again, so it also installs updates.
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
_PULLED = re.compile(r"^Digest: (sha256:[0-9a-f]{64})$", re.MULTILINE)


class PinningError(Exception):
    """No container engine is running, or it does not find an image."""


def find_engine() -> str:
    """Returns the name of the running container engine: Docker, or else Podman.

    Raises:
        PinningError: none is running.
    """
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    raise PinningError("Neither Docker nor Podman runs here. Start one, or run this on the machine that builds the images.")


def digest_of(engine: str, image: str) -> str:
    """Fetches an image by its tag and returns its digest in the registry.

    Args:
        engine: `docker` or `podman`.
        image: name and tag of the image.

    Raises:
        PinningError: the image cannot be fetched, or has no digest.
    """
    pulled = subprocess.run([engine, "pull", image], capture_output=True, text=True)
    if pulled.returncode:
        raise PinningError(f"{image} cannot be fetched: {pulled.stderr.strip() or pulled.stdout.strip()}")
    found = _PULLED.search(pulled.stdout)
    if found:  # Docker prints the digest, Podman does not
        return found.group(1)
    every = "{{range .RepoDigests}}{{println .}}{{end}}"
    shown = subprocess.run([engine, "image", "inspect", "--format", every, image], capture_output=True, text=True)
    for line in shown.stdout.split():
        name, _, digest = line.partition("@")
        if f"/{name}".endswith(f"/{image.partition(':')[0]}") and _DIGEST.fullmatch(digest):
            return digest
    raise PinningError(f"{engine} has no digest of {image}. {shown.stderr.strip()}".strip())


def pin(folder: Path, engine: str) -> list[str]:
    """Writes the digests into the files. If one digest cannot be found, no file is changed.

    Args:
        folder: folder that contains `FILES`.
        engine: `docker` or `podman`.

    Returns:
        The images with their digests.

    Raises:
        PinningError: a digest cannot be found.
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
    """Pins the images and prints their digests; returns the exit status."""
    try:
        print("\n".join(pin(folder, find_engine())))
    except (PinningError, OSError) as error:
        print(f"Nothing was changed. {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
