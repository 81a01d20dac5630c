"""The command line, `medsam2-atlas`: one module for each group of commands.

At its top, a module of commands imports only what the parsing of arguments needs: typer, rich, the standard library, and
modules of this project that import no other library, such as `choices` and `console`. The body of a command checks its
arguments first and then imports the code that it runs. Help, shell completion and refusals therefore take a fraction of a
second; importing torch and MONAI takes several seconds.
"""

from medsam2_atlas.cli.main import app, main

__all__ = ["app", "main"]
