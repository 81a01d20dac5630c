"""`medsam2-atlas evaluate`: scores segmenters on annotated CTs, and reports accuracy and cost."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, Loop, ThresholdRule
from medsam2_atlas.base.console import Table, bars, echo, show
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.file_modes import umask_of_user
from medsam2_atlas.cli.as_published import AsPublishedOption, follow_published_method, print_other_registration
from medsam2_atlas.cli.cases import print_left_out
from medsam2_atlas.cli.cluster_options import ClusterOption, TlsOption, WorkersOption, check_cluster_options, on_cluster
from medsam2_atlas.cli.options import (
    SEGMENTERS,
    AtlasOption,
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    FolderOption,
    HuOption,
    ModeOption,
    RegistrationOption,
    StrictOption,
    check_prompts,
    choose_registration,
    named_folders,
    print_mode,
)
from medsam2_atlas.cli.outputs import check_folder
from medsam2_atlas.segmenters.registry import family_of, trainable

if TYPE_CHECKING:
    from medsam2_atlas.experiment import Results

_UNETS = ", ".join(trainable())
_DEFAULTS = "atlas,A,B,C,D,E,F,reference-1,reference-3,unet_2d,unet_3d"


def evaluate_command(
    context: typer.Context,
    images: Annotated[Path, typer.Option("--images", help="Folder of the CTs.")],
    labels: Annotated[Path, typer.Option("--labels", help="Folder of the ground truth, under the names of the CTs.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write results to. Only results that it lacks are computed.")
    ],
    segmenters: Annotated[
        str,
        typer.Option(
            "--segmenters",
            show_default=False,
            help=f"Comma-separated names of segmenters. Choices: {SEGMENTERS}. Default: all but bundles and nnU-Nets.",
        ),
    ] = _DEFAULTS,
    atlas: AtlasOption = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    unet_weights: Annotated[
        list[str] | None,
        typer.Option(
            "--unet-weights",
            help="U-Net weights file (.pt), as NAME=FILE, such as unet_2d=run/best.pt; FILE alone is for all U-Nets. "
            "Repeatable. Default: the demo weights.",
        ),
    ] = None,
    folder: FolderOption = None,
    organs: Annotated[
        str,
        typer.Option(
            help="Comma-separated names or numbers of the organs that the ground truth annotates. Default: those in the data "
            "set's dataset.json, else all."
        ),
    ] = "",
    registration: RegistrationOption = None,
    as_published: AsPublishedOption = False,
    prompts: Annotated[str, typer.Option(help="Source of the first boxes; see `segment`.")] = "atlas",
    loop: Annotated[Loop, typer.Option(help="Propagation loop; see `segment`.")] = "symmetric",
    mode: ModeOption = "exact",
    thresholds: Annotated[
        ThresholdRule, typer.Option(help="Thresholds of the score maps; see `segment`.")
    ] = DEFAULT_THRESHOLDS,
    fill_holes: Annotated[bool, typer.Option(help="Fill small holes in the masks, as the official CUDA build does.")] = False,
    jitter: Annotated[
        list[str] | None,
        typer.Option(
            "--jitter",
            help="Also run reference-3 with true prompts displaced by these distances in mm: shift=5,10,20 or scale=-5,5,10. "
            "Repeatable. Default: none.",
        ),
    ] = None,
    references: Annotated[
        str,
        typer.Option(
            help="Also run segmenters that use the atlas with smaller atlases: comma-separated numbers of references, such as "
            "1,3,5. Default: none."
        ),
    ] = "",
    empty: Annotated[
        Literal["penalise", "monai"],
        typer.Option(
            help="Scores of an organ in only one of ground truth and prediction: Dice 0, NSD 0, the image's diagonal as HD95 "
            "(penalise), or as in MONAI's metrics (monai)."
        ),
    ] = "penalise",
    jobs: Annotated[
        int, typer.Option(min=1, max=256, help="Number of cases that run side by side. Energy is measured only with 1.")
    ] = 1,
    cluster: ClusterOption = "",
    workers: WorkersOption = 0,
    tls: TlsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of bootstrap intervals and of the choice of references.")] = 0,
    hu: HuOption = "check",
    strict: StrictOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Score segmenters on annotated CTs; write tables, tests, plots and a report. Finished results are kept."""
    names = [name.strip() for name in segmenters.split(",") if name.strip()]
    if not names:
        raise InputError("--segmenters", "names no segmenter.", f"Choose from: {SEGMENTERS}.")
    for name in names:
        family_of(name)
    check_prompts(prompts)
    check_cluster_options(cluster, workers, tls)
    if cluster and jobs != 1:
        raise InputError("--jobs", "does not fit --cluster.", "Omit one of them.")
    folders = named_folders(folder)
    weights = _unet_weights(unet_weights)
    counts = _numbers(references)
    for place in (images, labels):
        if not place.is_dir():
            raise InputError(
                place, "is not a folder.", "Give the folder of the CTs as --images, and that of their label maps as --labels."
            )
    if images.resolve() == labels.resolve():
        raise InputError(images, "is given as --images and as --labels.", "Name two different folders.")
    check_folder(out)
    from medsam2_atlas.experiment.results_folder import check_results_folder

    check_results_folder(out, [images, labels, *([atlas] if atlas else [])])
    from medsam2_atlas.prompting import Jitter

    jitters = [Jitter.parse(text) for given in jitter or [] for text in _amounts(given)]
    from medsam2_atlas.experiment.plan import variants_of

    variants = variants_of(names, counts, jitters)
    if as_published:
        follow_published_method(context)
    choose_registration(registration)
    import torch

    from medsam2_atlas.cli.configurations import changed_settings
    from medsam2_atlas.experiment.choice import Choice
    from medsam2_atlas.experiment.conduct import conduct
    from medsam2_atlas.experiment.setting import Setting
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.studies.models import Models

    paths = {"atlas": atlas, "checkpoint": checkpoint, "config": config}
    conf = {key: str(value) for key, value in paths.items() if value} | weights | {"device": device} | folders
    threads = torch.get_num_threads() if jobs == 1 or "OMP_NUM_THREADS" in os.environ else max(1, (os.cpu_count() or 1) // jobs)
    torch.set_num_threads(threads)
    annotated = tuple(organ_table().select(o for o in organs.split(",") if o.strip())) if organs.strip() else ()
    setting = Setting(
        out,
        variants,
        annotated,
        conf,
        hu=hu,
        prompts=prompts,
        loop=loop,
        mode=mode,
        thresholds=thresholds,
        fill_holes=fill_holes,
        as_published=as_published,
        registration=registration,
        energy=jobs == 1 and not cluster,
        threads=threads,
    )
    print_mode(mode)
    if as_published:
        print_other_registration(Models(conf).base_atlas())
    choice = Choice(images, labels, tuple(counts), empty, jobs, seed, strict, tuple(changed_settings()))
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    opened = on_cluster(cluster, workers, tls, threads, out, gpus, network=device != "cpu")
    with umask_of_user(), opened as mapped, bars() as progress:
        if mapped is not None:
            setting = replace(setting, threads=mapped.threads)
        results = conduct(setting, choice, progress, mapped)
    _print(results)
    echo(f"{out / 'report.html'} written")


def _print(results: Results) -> None:
    """Prints the mean Dice of each segmenter, and what was left out."""
    table = Table("segmenter", "cases", "mean Dice", title="mean over cases of the mean over organs")
    for variant in results.variants:
        means = list(results.case_means(variant, "dice").values())
        table.add_row(escape(variant.name), str(len(means)), f"{sum(means) / len(means):.3f}" if means else "")
    show(table)
    print_left_out(results.problems)


def _unet_weights(given: list[str] | None) -> dict[str, str]:
    """Returns the weights files of `--unet-weights`, by U-Net.

    Raises:
        InputError: a text names no U-Net, or no file.
    """
    found: dict[str, str] = {}
    for text in given or []:
        name, separator, file = text.partition("=")
        named = bool(separator) and not Path(text).is_file()
        if named and name not in trainable():
            raise InputError(repr(text), "does not name a U-Net and its weights.", f"Write NAME=FILE, NAME one of {_UNETS}.")
        if not Path(file if named else text).is_file():
            raise InputError(file if named else text, "is not a file.", "Name the weights of a U-Net (.pt).")
        found |= {name: file} if named else {unet: text for unet in trainable() if unet not in found}
    return found


def _numbers(text: str) -> list[int]:
    """Returns the numbers of a comma-separated list."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [0]
    if any(number < 1 for number in found):
        raise InputError("--references", f"is {text!r}.", "List numbers of references from 1 on, such as 1,3,5.")
    return sorted(set(found))


def _amounts(text: str) -> list[str]:
    """Splits `shift=5,10` into `shift=5` and `shift=10`."""
    kind, separator, amounts = text.partition("=")
    if not separator:
        return [text]
    return [f"{kind}={amount.strip()}" for amount in amounts.split(",")]
