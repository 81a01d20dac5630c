"""Writing files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medsam2_atlas.errors import StorageError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target`, with its suffixes, that takes the target's place when the block ends without error.

    It may be written as a file or made as a folder. Where the block fails, it is removed and the target is untouched.

    Raises:
        StorageError: the folder of the target does not exist.
    """
    if not target.parent.is_dir():
        raise StorageError(target, "its folder does not exist.", f"Create {target.parent} first.")
    part = target.with_name(f".part-{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        yield part
        if part.is_dir() and target.is_dir():
            old = target.with_name(f".old-{uuid.uuid4().hex[:8]}-{target.name}")
            target.rename(old)
            part.rename(target)
            shutil.rmtree(old)
        else:
            os.replace(part, target)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def write_json(content: Any, target: Path) -> None:
    """Writes JSON, indented, in one step."""
    with replacing(target) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(file: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
