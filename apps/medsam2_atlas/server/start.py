"""Runs MONAI Label's command, as `medsam2-atlas serve` does: `python -m server.start start_server …`.

In a terminal, the log goes only to its file: the terminal shows errors and what `announcement` prints. A service manager or a
container, whose standard error is no terminal, gets the whole log.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.resource import QUIET_VARIABLE
from medsam2_atlas.cli.endings import plain_endings

_CONSOLES = ("console", "task_console")
_OTHER_LOGGERS = ("timeloop",)
"""Loggers that print their messages themselves, whatever the configuration."""


def quiet(stock: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns a configuration of `logging` whose console shows only errors. All messages go to the file.

    Args:
        stock: MONAI Label's configuration. In it, the messages of uvicorn go only to the console.
        folder: the app folder.
    """
    text = json.dumps(stock).replace("${LOGFILE}", json.dumps(str(folder / "logs" / "app.log"))[1:-1])
    changed: dict[str, Any] = json.loads(text)
    for name in _CONSOLES:
        changed["handlers"][name]["level"] = "ERROR"
    for logger in changed["loggers"].values():
        if logger["handlers"] == ["console"]:
            logger["handlers"] = ["console", "file_handler"]
    return changed


def main() -> None:
    """Starts the server; the arguments are those of MONAI Label's command."""
    arguments = sys.argv[1:]
    if os.environ.pop(QUIET_VARIABLE, ""):
        import monailabel

        logging.basicConfig(level=logging.ERROR)  # before MONAI Label would print its settings
        for name in _OTHER_LOGGERS:
            logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
        folder = Path(arguments[arguments.index("--app") + 1])
        (folder / "logs").mkdir(exist_ok=True)
        stock = json.loads((Path(monailabel.__file__).parent / "logging.json").read_text(encoding="utf-8"))
        write_json(quiet(stock, folder), folder / "logging.json")
        arguments += ["--log_config", str(folder / "logging.json")]
    sys.argv = ["monailabel", *arguments]
    from monailabel.main import Main

    Main().run()


if __name__ == "__main__":
    with plain_endings():  # importing takes seconds, in which people press Ctrl+C
        main()
