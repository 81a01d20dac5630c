"""Media types of DICOMweb: which answers a client accepts (PS3.18, 8.7), and multipart messages."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
"""The transfer syntax of all frames and files."""

JSON = "application/dicom+json"
DICOM = "application/dicom"
FRAMES = "application/octet-stream"

_PARAMETER = re.compile(r';\s*([\w-]+)\s*=\s*("[^"]*"|[^;,\s]*)')
_RANGE = re.compile(r'\s*([\w.+*-]+/[\w.+*-]+)((?:\s*;\s*[\w-]+\s*=\s*(?:"[^"]*"|[^;,"\s]*))*)\s*(?:,|$)')
_MAX_HEADER = 4096


@dataclass(frozen=True)
class Part:
    """A part of a multipart message.

    Attributes:
        kind: its Content-Type.
        content: its bytes.
    """

    kind: str
    content: bytes


def accepts(header: str, kind: str, *, multipart: bool = False) -> bool:
    """Returns whether a client accepts an answer.

    Args:
        header: the header `Accept`; an empty one accepts everything.
        kind: the media type of the answer, or of the parts of a multipart answer.
        multipart: whether the answer is a multipart message. Its parts have the transfer syntax Explicit VR Little Endian.

    >>> accepts('multipart/related; type="application/octet-stream"; transfer-syntax=*', FRAMES, multipart=True)
    True
    >>> accepts("multipart/related; type=image/jpeg", FRAMES, multipart=True)
    False
    """
    if not header.strip():
        return True
    return any(_fits(asked, parameters, kind, multipart) for asked, parameters in _ranges(header))


def multipart(kind: str, parts: Iterable[Part]) -> tuple[str, Iterator[bytes]]:
    """Returns the Content-Type of a multipart message and its bytes, piece by piece.

    Args:
        kind: the media type of the parts, which the Content-Type names.
        parts: the parts, which are requested one after the other.
    """
    boundary = uuid.uuid4().hex
    return f'multipart/related; type="{kind}"; boundary={boundary}', _pieces(boundary, parts)


def _pieces(boundary: str, parts: Iterable[Part]) -> Iterator[bytes]:
    for part in parts:
        head = f"--{boundary}\r\nContent-Type: {part.kind}\r\nContent-Length: {len(part.content)}\r\n\r\n"
        yield head.encode() + part.content + b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _ranges(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the media types in an `Accept` header with their parameters; ignores the rest after a malformed one."""
    position, text = 0, header[:_MAX_HEADER]
    while match := _RANGE.match(text, position):
        yield match[1].lower(), {name.lower(): value.strip('"') for name, value in _PARAMETER.findall(match[2])}
        position = match.end()
        if position >= len(text):
            return


def _fits(asked: str, parameters: dict[str, str], kind: str, in_parts: bool) -> bool:
    if parameters.get("q", "1").strip("0.") == "":
        return False
    if parameters.get("transfer-syntax", "*") not in ("*", EXPLICIT_LITTLE_ENDIAN):
        return False
    if asked in ("*/*", "multipart/*" if in_parts else f"{kind.partition('/')[0]}/*"):
        return True
    if in_parts:
        return asked == "multipart/related" and parameters.get("type", kind).lower() in (kind, "*/*")
    return asked == kind or (kind == JSON and asked == "application/json")
