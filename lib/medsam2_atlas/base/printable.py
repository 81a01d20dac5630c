"""Escapes text from outside, so that it cannot control a terminal or forge lines of a log."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]",
)
"""Control characters, line separators, invisible characters, characters that change the direction of text, and undecodable
bytes of file names."""
_MAX_MESSAGE, _MAX_DETAILS = 10_000, 50_000


def printable(text: str) -> str:
    r"""Returns a text as one line; characters that would not be visible become escapes such as `\n`, `\x1b` and `\u202e`.

    >>> printable("CT\n1")
    'CT\\n1'
    """
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


class LineFormatter(logging.Formatter):
    """Formats a log record so that its message is the whole first line, and no other line looks like the start of a record.

    Lines of a traceback begin with `  | `, because the text of an error may contain line breaks too.
    """

    def __init__(self, like: logging.Formatter, hide: Callable[[str], str] = str) -> None:
        """Creates a formatter on the basis of another one.

        Args:
            like: the formatter whose format is used.
            hide: called with each message and traceback; returns the text without the parts that must not be shown.
        """
        super().__init__()
        self._like, self._hide = like, hide

    def format(self, record: logging.LogRecord) -> str:
        """Returns the formatted lines of a record."""
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
    """Returns a record's message, even if its arguments do not match its format."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args}"
