"""Measures the processor time that command lines take to start, and lists the heavy libraries that they load (`make startup`).

Prints the median user and system time of five runs for each command line. Each run is a separate process. `serve` ends before
it would become the server. `doctor` runs completely, for comparison: it loads the libraries and weights that it reports on.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from command_lines import COMPLETIONS, LIGHT, labelled_studies, run
from medsam2_atlas.base.console import bars, console

RUNS = 5


def main() -> None:
    table = Table("command line", "processor s", "modules", "heavy libraries", title=f"median of {RUNS} runs")
    with tempfile.TemporaryDirectory() as name:
        os.environ["MEDSAM2_ATLAS_STATE"] = name
        studies = str(labelled_studies(Path(name) / "studies"))
        lines: list[tuple[str, tuple[str, ...], Mapping[str, str]]] = [
            *((" ".join(arguments), arguments, {}) for arguments in LIGHT),
            ("labels list STUDIES", ("labels", "list", studies), {}),
            ("labels restore STUDIES case-0 1", ("labels", "restore", studies, "case-0", "1"), {}),
            ("segment CT -o out.txt (refused)", ("segment", "CT", "-o", "out.txt"), {}),
            ("serve STUDIES (to its exec)", ("serve", studies, "--port", "59999"), {}),
            *((shell, (), environment) for shell, environment in COMPLETIONS.items()),
            ("doctor", ("doctor", "--dicomweb", "http://127.0.0.1:9/"), {}),
        ]
        with bars() as progress:
            for number, (what, arguments, environment) in enumerate(lines, 1):
                ran = [run(arguments, environment) for _ in range(RUNS)]
                seconds = statistics.median(one.seconds for one in ran)
                table.add_row(what, f"{seconds:.2f}", str(len(ran[-1].modules)), ", ".join(ran[-1].heavy) or "none")
                progress("command lines", number / len(lines))
    console.print(table)


if __name__ == "__main__":
    main()
