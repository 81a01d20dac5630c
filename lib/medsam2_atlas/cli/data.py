"""`medsam2-atlas data …`: prepares public data sets for evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medsam2_atlas.base.console import bars, console, echo
from medsam2_atlas.cli.cases import print_left_out
from medsam2_atlas.cli.options import HuOption
from medsam2_atlas.cli.outputs import check_folder

if TYPE_CHECKING:
    from medsam2_atlas.datasets import Prepared

app = typer.Typer(help="Prepare public data sets for evaluations.", no_args_is_help=True)


@app.command("prepare")
def prepare_command(
    layout: Annotated[
        str,
        typer.Argument(
            help="Layout of the download: amos, btcv, flare22, totalsegmentator (masks), totalsegmentator_labels (label maps "
            "of version 2), word, or a YAML file of your own; see docs/datasets.md."
        ),
    ],
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the unpacked download; it is not changed.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, outside of DIR. A later run with the same layout continues.")],
    references: Annotated[
        str | None,
        typer.Option("--references", help="Comma-separated cases for the atlas. Default: the published references, if any."),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            "--targets", help="Comma-separated cases to evaluate on. Default: the published targets, else all other cases."
        ),
    ] = None,
    all_cases: Annotated[
        bool,
        typer.Option("--all", help="All annotated CTs except the --references become targets; no published split is used."),
    ] = False,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Continue without requested cases that DIR lacks, and list them. Default: an error."),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Stop at the first case that cannot be used. Default: skip such cases and list them."),
    ] = False,
    hu: HuOption = "check",
) -> None:
    """Write the annotated CTs of a download as references and targets, in LPS orientation, with our organ numbers."""
    check_folder(out)
    from medsam2_atlas.datasets import Choice, PrepareOptions, prepare, read_layout
    from medsam2_atlas.imaging.hounsfield import HuRule

    choice = Choice(_names(references), _names(targets), all_cases, partial)
    options = PrepareOptions(choice, strict, HuRule.parse(hu))
    name, content = read_layout(layout)
    with bars() as progress:
        prepared = prepare(name, content, source, out, options, progress=progress)
    _show(prepared, out)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Returns the names in a comma-separated text; None if the option was not given."""
    return None if text is None else tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _show(prepared: Prepared, out: Path) -> None:
    dataset = prepared.dataset
    print_left_out(dataset.left_out)
    if prepared.excluded:
        console.print(f"{prepared.excluded} cases are not CTs")
    if prepared.unlabelled:
        console.print(f"{prepared.unlabelled} CTs have no label map")
    counted = {"references": dataset.of_role("reference"), "targets": dataset.of_role("target")}
    counts = [f"{len(cases)} {word}" for word, cases in counted.items() if cases]
    echo(f"{' and '.join(counts)} of {dataset.title} are in {out}; {prepared.written} were written now")
