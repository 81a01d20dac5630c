"""`medsam2-atlas batch`: segments all CTs of a folder, a table or a PACS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, Loop, ThresholdRule
from medsam2_atlas.base.console import console, echo
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.cli.as_published import AsPublishedOption, follow_published_method
from medsam2_atlas.cli.cluster_options import ClusterOption, ThreadsOption, TlsOption, WorkersOption, check_cluster_options
from medsam2_atlas.cli.options import (
    CHOICES,
    AtlasOption,
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    FolderOption,
    HuOption,
    ModeOption,
    RegistrationOption,
    UNetWeightsOption,
    check_prompts,
    check_segmenter,
    choose_registration,
    named_folders,
    print_mode,
)
from medsam2_atlas.cli.outputs import check_folder
from medsam2_atlas.segmenters.registry import family_of, preferred, trainable

if TYPE_CHECKING:
    from medsam2_atlas.batch.tally import Tally, Watch

_SHOWN = 10
"""Number of failures that are printed."""


def batch_command(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Folder of CTs, CSV file with a column `image`, or DICOMweb URL with filters, as in "
            "https://HOST/dicom-web?StudyDate=20240101-20240131.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(help="Folder for label maps, reports and manifest.jsonl; with `--results studies`, a studies folder."),
    ],
    segmenter: Annotated[str, typer.Option("--segmenter", help=f"Segmenter to run; see docs/method.md. {CHOICES}")] = preferred(
        "prompted"
    ),
    results: Annotated[
        Literal["nifti", "seg", "studies", "pacs"],
        typer.Option(
            help="Form of the results: NIfTI, DICOM SEG (inputs must be DICOM series), versions in a studies folder under the "
            "model's tag, or DICOM SEG that are also stored in the PACS."
        ),
    ] = "nifti",
    pacs: Annotated[str, typer.Option(help="DICOMweb URL of the PACS for `--results pacs`. Default: INPUT.")] = "",
    atlas: AtlasOption = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    unet_weights: UNetWeightsOption = None,
    folder: FolderOption = None,
    organs: Annotated[str, typer.Option(help="Comma-separated names or numbers of the organs to segment. Default: all.")] = "",
    prompts: Annotated[str, typer.Option(help="Source of the first boxes; see `segment`.")] = "atlas",
    loop: Annotated[Loop, typer.Option(help="Propagation loop; see `segment`.")] = "symmetric",
    mode: ModeOption = "exact",
    thresholds: Annotated[
        ThresholdRule, typer.Option(help="Thresholds of the score maps; see `segment`.")
    ] = DEFAULT_THRESHOLDS,
    registration: RegistrationOption = None,
    as_published: AsPublishedOption = False,
    fill_holes: Annotated[bool, typer.Option(help="Fill small holes in the masks; see `segment`.")] = False,
    hu: HuOption = "check",
    device: DeviceOption = "auto",
    cluster: ClusterOption = "",
    workers: WorkersOption = 0,
    tls: TlsOption = None,
    threads: ThreadsOption = 0,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try all failed cases again. Default: only those whose problem may have passed."),
    ] = False,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Follow links that lead out of INPUT.")] = False,
    serial: Annotated[
        bool, typer.Option("--serial", help="Do one case after the other, without overlapping their steps.")
    ] = False,
) -> None:
    """Segment all CTs of a folder, a table or a PACS. Run the same command again to continue, or after inputs have changed."""
    check_segmenter(segmenter)
    check_prompts(prompts)
    if cluster and serial:
        raise InputError("--serial", "does not fit --cluster.", "Omit one of them.")
    folders = named_folders(folder)
    check_cluster_options(cluster, workers, tls)
    if not is_url(source) and not Path(source).exists():
        raise InputError(source, "does not exist.", "Name a folder, a CSV file, or the DICOMweb URL of a PACS.")
    check_folder(out)
    if as_published:
        follow_published_method(context)
    choose_registration(registration)
    from medsam2_atlas.batch import Batch, Job, run_batch
    from medsam2_atlas.imaging.hounsfield import HuRule
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.segmenters.base import Options
    from medsam2_atlas.studies.as_published import published_options

    chosen = tuple(organ_table().select(o for o in organs.split(",") if o))
    options = Options(chosen, prompts, loop=loop, mode=mode, thresholds=thresholds, fill_holes=fill_holes)
    if results == "studies":
        from medsam2_atlas.cli.folders import study_folder

        if chosen:
            raise InputError("--organs", "does not fit --results studies, which stores all organs.", "Omit it.")
        study_folder(out)
    paths = {"atlas": atlas, "checkpoint": checkpoint, "config": config, **dict.fromkeys(trainable(), unet_weights)}
    job = Job(
        segmenter,
        out,
        {key: str(value) for key, value in paths.items() if value} | {"device": device} | folders,
        published_options(options) if as_published else options,
        str(HuRule.parse(hu)),
        results,
        registration,
        as_published,
        threads,
        pacs,
    )
    if family_of(segmenter).role == "prompted":
        print_mode(mode)
    batch = Batch(source, out, job, cluster, workers, tls, follow_links, retry_failed, serial)
    with batch_bar() as watch:
        ended = run_batch(batch, watch)
    print_end(ended.tally, ended.manifest)


@contextmanager
def batch_bar() -> Iterator[Watch]:
    """Shows a bar with the number of cases, throughput and time left for the block; yields the function that moves it."""
    columns = (
        *(TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}")),
        *(TimeElapsedColumn(), TextColumn("{task.fields[pace]}")),
    )
    with Progress(*columns, console=console) as display:
        task = display.add_task("cases", total=None, failed="", pace="")

        def watch(tally: Tally) -> None:
            failed = f"[yellow]{len(tally.failed)} failed[/]" if tally.failed else ""
            pace = "" if tally.per_hour is None else f"{_number(tally.per_hour)} an hour, {_duration(tally.seconds_left)} left"
            waiting = f", {tally.waiting} to be tried again" if tally.waiting else ""
            display.update(task, total=tally.total, completed=tally.total - tally.left, failed=failed, pace=pace + waiting)

        yield watch


def print_end(tally: Tally, manifest: Path) -> None:
    """Prints the end of a batch; exits with status 1 if a case failed."""
    for name, reason in list(tally.failed.items())[:_SHOWN]:
        console.print(f"[yellow]failed:[/] {escape(name)}: {escape(reason)}", soft_wrap=True, highlight=False)
    if len(tally.failed) > _SHOWN:
        console.print(f"[yellow]failed:[/] {len(tally.failed) - _SHOWN} more; see {escape(str(manifest))}", soft_wrap=True)
    kept = f", {tally.kept} unchanged" if tally.kept else ""
    failed = f", {len(tally.failed)} failed" if tally.failed else ""
    echo(f"{tally.done} cases segmented{kept}{failed}; {manifest}")
    if tally.failed:
        raise typer.Exit(1)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
