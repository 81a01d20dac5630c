"""The option `--as-published`: all steps of a command follow the published method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medsam2_atlas.base.console import console
from medsam2_atlas.base.errors import InputError

if TYPE_CHECKING:
    from medsam2_atlas.atlas import Atlas

AsPublishedOption = Annotated[
    bool,
    typer.Option(
        "--as-published",
        help="Follow the published method in all steps: its settings, loop, mode and thresholds are used; see docs/method.md.",
    ),
]


def print_other_registration(atlas: Atlas | None) -> None:
    """Prints a note if an atlas' references were not registered to each other by the published method."""
    published = _PUBLISHED["registration"]
    if atlas is not None and atlas.registered_by != published:
        console.print(
            f"[yellow]registration:[/] the references of the atlas were registered to each other by {atlas.registered_by}, the "
            f"published ones by {published}. To follow that too: medsam2-atlas atlas build --registration {published}",
            soft_wrap=True,
        )


_PUBLISHED = {"loop": "published", "thresholds": "published", "mode": "exact", "registration": "keypoints"}
"""The values of the options that the method sets; see `studies.as_published`, which this module imports late."""


def follow_published_method(context: typer.Context) -> None:
    """Makes a command follow the published method, and prints the user's changed settings that stay in force.

    A command with `--as-published` calls this before it reads settings, and gives its options to `published_options`.

    Args:
        context: the command's context; `--loop`, `--thresholds`, `--mode` and `--registration` are checked if the
            command has them.

    Raises:
        InputError: the user gave one of these options with another value than the method's, or a setting is invalid.
    """
    for name, published in _PUBLISHED.items():
        source, value = context.get_parameter_source(name), context.params.get(name, published)
        if value != published and source is not None and source.name != "DEFAULT":
            raise InputError("--as-published", f"contradicts --{name} {value}.", "Omit one of the two options.")
    from medsam2_atlas.cli.configurations import changed_settings
    from medsam2_atlas.studies.as_published import use_published_method

    use_published_method()
    for line in changed_settings():
        console.print(f"[yellow]your settings stay in force:[/] {escape(line)}", soft_wrap=True)
