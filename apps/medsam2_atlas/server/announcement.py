"""The lines that `medsam2-atlas serve` prints when the server can be used: which address to open, and how people log in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from medsam2_atlas.base.console import echo
from medsam2_atlas.base.resource import ADDRESS_VARIABLE
from server.config import ServerConfig


def announcement(addresses: Iterable[str], config: ServerConfig, missing: Iterable[str], log: Path) -> list[str]:
    """Returns the lines.

    Args:
        addresses: addresses of the server without a path, such as `http://127.0.0.1:8000`.
        config: the server's settings.
        missing: the models that cannot run.
        log: the file of the log.
    """
    opened = " or ".join(f"{address}{config.root_path}/" for address in addresses)
    lines = [f"Open {opened} in a browser. Ctrl+C ends the server."]
    if config.tokens:
        lines.append("People log in with the token that `medsam2-atlas tokens add` has printed for them.")
    if config.oidc_issuer:
        lines.append(f"People log in with a token of {config.oidc_issuer}.")
    if models := sorted(missing):
        lines.append(f"Cannot run yet: {', '.join(models)}. `medsam2-atlas doctor` and the log give the reasons.")
    return [*lines, f"Log: {log}"]


def announce(config: ServerConfig, missing: Iterable[str], app_folder: Path) -> None:
    """Prints the lines, if `medsam2-atlas serve` has started this process."""
    addresses = os.environ.get(ADDRESS_VARIABLE, "").split()
    if addresses:
        echo(*announcement(addresses, config, missing, app_folder / "logs" / "app.log"))
