"""Receives packed label maps in the bodies of requests, and sends them (see `imaging.packed_labels`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.packed_labels import pack, unpack

PACKED = "application/octet-stream"
_BLOCK = 1 << 20


@asynccontextmanager
async def packed_body(request: Request) -> AsyncIterator[Path]:
    """Writes the body of a request to a temporary file while it arrives, yields the file, and removes it after the block.

    Raises:
        ClientDisconnect: the client closed the connection before the body was complete.
        StorageError: the body cannot be stored.
    """
    file = await run_in_threadpool(scratch_file, ".gz")
    try:
        with file.open("wb") as stream:
            waiting = bytearray()
            async for chunk in request.stream():
                waiting += chunk
                if len(waiting) >= _BLOCK:
                    await run_in_threadpool(_write, stream, bytes(waiting))
                    waiting.clear()
            await run_in_threadpool(_write, stream, bytes(waiting))
        yield file
    finally:
        file.unlink(missing_ok=True)


def unpacked(file: Path, shape: tuple[int, int, int]) -> Any:
    """Returns the label map in a body: `[z, y, x]` uint8 organ numbers.

    Args:
        file: the body.
        shape: the expected shape (z, y, x), in voxels.

    Raises:
        MalformedError: the body is no label map of this shape with organs of the table.
    """
    return unpack(file, shape, organ_table().indices)


def packed_answer(labels: Any, **headers: str) -> Response:
    """Returns the answer with a label map `[z, y, x]`; its header `X-Shape` contains the size z,y,x in voxels."""
    shape = ",".join(str(count) for count in labels.shape)
    return Response(pack(labels), media_type=PACKED, headers={"X-Shape": shape, **headers})


def _write(stream: Any, content: bytes) -> None:
    try:
        stream.write(content)
    except OSError as error:
        raise StorageError("upload", f"cannot be stored ({error}).", "Free some space on the server.") from error
