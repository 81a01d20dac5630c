"""The command line, `medsam2-atlas`: one module for each group of commands.

A module of commands imports at its top only what parsing arguments takes: typer and rich, the standard library, and modules of
this project that import no other library, such as `choices` and `console`. The body of a command checks its arguments first,
then imports what it runs. So help, shell completion and refusals take a fraction of a second, not the seconds that torch and
MONAI take to import.
"""

from medsam2_atlas.cli.main import app, main

__all__ = ["app", "main"]
