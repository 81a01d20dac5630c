"""Text from outside cannot forge log lines or control a terminal."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.markup import escape
from rich.table import Table

from medsam2_atlas.base.printable import LineFormatter, printable

FORGED = "[2026-11-26 10:00:00,000] [1] [MainThread] [ERROR] (root:1) - forged"
LIKE = logging.Formatter("[%(asctime)s] [%(threadName)s] [%(levelname)s] (%(name)s:%(lineno)d) - %(message)s")


@pytest.fixture
def written() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(LIKE))
    logger = logging.Logger("a")
    logger.addHandler(handler)
    return logger, stream


@pytest.mark.parametrize(
    "character",
    [
        "\n",
        "\r",
        "\x0b",
        "\x1b",
        "\x00",
        "\x7f",
        "\x85",
        "\x9b",
        "\u2028",
        "\u2029",
        "\u202e",
        "\u2066",
        "\udcff",
        "\U000e0041",
    ],
)
def test_no_character_breaks_a_line_or_controls_a_terminal(written: tuple[logging.Logger, io.StringIO], character: str) -> None:
    logger, stream = written
    logger.info("GET /x%s", character + FORGED)
    logger.info("template " + character + FORGED)
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert character not in text.replace("\n", "") if character != "\n" else text.count("\n") == 2
    text.encode()  # can be written
    assert printable(character).startswith("\\")


def test_tracebacks_stay_readable_and_none_of_their_lines_looks_like_a_record(
    written: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = written
    try:
        raise ValueError(f"bad\n{FORGED}\r\x1b[31m")
    except ValueError:
        logger.exception("failed", stack_info=True)
    record = logging.LogRecord("a", logging.ERROR, __file__, 1, "cached", None, None)
    record.exc_text = f"ValueError: x\n{FORGED}"
    logger.handle(record)
    lines = stream.getvalue().rstrip("\n").split("\n")
    assert sum(line.startswith("[") for line in lines) == 2
    assert all(line.startswith(("[", "  | ")) for line in lines)
    assert "  | Traceback (most recent call last):" in lines
    assert f"  | {FORGED}\\r\\x1b[31m" in lines


def test_names_of_loggers_and_threads_cannot_forge_lines() -> None:
    record = logging.LogRecord("a\nb", logging.INFO, __file__, 1, "x", None, None)
    record.threadName = "t\n" + FORGED
    assert "\n" not in LineFormatter(LIKE).format(record)


def test_a_message_with_wrong_arguments_is_still_logged(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    logger.info("%d of %s", "three")
    assert "three" in stream.getvalue()


def test_a_long_message_does_not_fill_the_log(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    logger.info("x" * 1_000_000)
    assert len(stream.getvalue()) < 11_000


def test_other_text_is_not_changed() -> None:
    text = "Müller – 肝臓 → label map 🫀 \\n"
    assert printable(text) == text


def test_names_of_files_do_not_control_the_terminal_of_a_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from medsam2_atlas.base import console

    stream = io.StringIO()
    shown = console._SafeConsole(file=stream, force_terminal=True, width=200)
    evil = "x\x1b]0;title\x07\x1b[2J\u202ey\x9b"
    table = Table("study", evil)
    table.add_row(evil, evil)
    shown.print(f"[yellow]refused:[/] {escape(evil)}", table)
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())  # rich's own colours
    assert not set("\x1b\x07\x9b\u202e") & set(text)
    assert text.count(r"x\x1b]0;title\x07\x1b[2J") == 4
    console.echo(f"{evil}\nforged", "second")
    assert capsys.readouterr().out.split("\n")[1:] == ["second", ""]


def test_log_lines_of_a_command_cannot_be_forged(monkeypatch: pytest.MonkeyPatch) -> None:
    from medsam2_atlas.base import console

    stream = io.StringIO()
    monkeypatch.setattr(console, "console", console._SafeConsole(file=stream, width=300))
    monkeypatch.setattr(logging, "basicConfig", lambda handlers, **options: given.extend(handlers))
    given: list[logging.Handler] = []
    console.set_up_logging(verbose=False)
    record = logging.LogRecord("a", logging.WARNING, __file__, 1, "x\nerror: forged\x1b[31m", None, None)
    given[0].handle(record)
    assert len(stream.getvalue().splitlines()) == 1
