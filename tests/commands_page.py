"""Writes docs/commands.md: every command with its arguments and options (`make commands`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from generated_part import GeneratedPart
from medsam2_atlas.cli import app
from medsam2_atlas.cli.examples import EXAMPLES, PROGRAM

PAGE = GeneratedPart("commands.md", "commands")


def commands() -> Iterator[tuple[str, Any]]:
    """Yields the full name and the click command of each command that users see, groups excluded."""
    yield from _below("medsam2-atlas", get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for key, found in inner.items():
        if not found.hidden:
            yield from _below(f"{name} {key}", found)


def content() -> str:
    """Returns a section with a table for each command."""
    return "\n".join(_section(name, command) for name, command in commands())


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
    shown = " ".join(_shown(p) for p in arguments)
    usage = f"{name}{' ' + shown if shown else ''}{' [OPTIONS]' if options else ''}"
    text = " ".join((command.help or "").split())
    rows = "".join(_row(p) for p in (*arguments, *options))
    shown_example = f"```sh\n{PROGRAM} {EXAMPLES[name.removeprefix(PROGRAM).strip()]}\n```\n"
    table = f"\n| argument or option | default | meaning |\n| --- | --- | --- |\n{rows}" if rows else ""
    return f"## `{name}`\n\n{text}\n\n```text\n{usage}\n```\n\n{shown_example}{table}"


def _shown(argument: Any) -> str:
    """Returns an argument's name in capitals, as the pages write it."""
    return str(argument.metavar or argument.name).strip("[]{}").upper()


def _row(param: Any) -> str:
    if param.param_type_name == "argument":
        name = f"`{_shown(param)}`"
    else:
        name = ", ".join(f"`{option}`" for option in (*param.opts, *param.secondary_opts))
    default = param.default
    if param.required:
        shown = "required"
    elif param.secondary_opts:
        shown = "on" if default else "off"
    elif default is None or default is False or default in ("", (), []) or callable(default) or not param.show_default:
        shown = ""
    else:
        shown = f"`{default}`"
    meaning = " ".join((param.help or "").split()).replace("|", "\\|")
    return f"| {name} | {shown} | {meaning} |\n"


if __name__ == "__main__":
    PAGE.write(content())
