"""Text from outside that is shown on a terminal or written into a log: it cannot forge lines or control a terminal."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]",
)
"""Control characters, line separators, characters that change the direction of text or show nothing, and bytes of file names
that are no characters."""
_MAX_MESSAGE, _MAX_DETAILS = 10_000, 50_000


def printable(text: str) -> str:
    r"""Returns a text in one line, with characters that are not shown as escapes such as `\n`, `\x1b` and `\u202e`."""
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


class LineFormatter(logging.Formatter):
    """Formats a record so that its first line is all of its message, and no other line looks like a record's.

    Lines of a traceback begin with `  | `: the text of an error may hold line breaks too.
    """

    def __init__(self, like: logging.Formatter, hide: Callable[[str], str] = str) -> None:
        """
        Args:
            like: the formatter whose format is kept.
            hide: called with each message and traceback; returns what may be shown of it.
        """
        super().__init__()
        self._like, self._hide = like, hide

    def format(self, record: logging.LogRecord) -> str:
        """Returns the lines of a record."""
        record.message = self._shown(_message(record), _MAX_MESSAGE)
        if self._like.usesTime():
            record.asctime = self._like.formatTime(record, self._like.datefmt)
        lines = [printable(self._like.formatMessage(record))]
        details = self._like.formatException(record.exc_info) if record.exc_info else record.exc_text
        for text in (details, self._like.formatStack(record.stack_info) if record.stack_info else ""):
            lines += [f"  | {printable(line)}" for line in self._shown(text, _MAX_DETAILS).split("\n")] if text else []
        return "\n".join(lines)

    def _shown(self, text: str, limit: int) -> str:
        text = self._hide(text)
        return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _message(record: logging.LogRecord) -> str:
    """Returns a record's message, also if its arguments do not fit."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args}"
