"""`medsam2-atlas segment` and `propagate`: one CT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, PROMPTS, Loop, Memory, ThresholdRule
from medsam2_atlas.base.console import bars, console, echo
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import replacing, write_json
from medsam2_atlas.base.progress import reporting
from medsam2_atlas.cli.options import (
    SEGMENTERS,
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    FolderOption,
    HuOption,
    UNetWeightsOption,
    check_segmenter,
    named_folders,
    renamed,
)
from medsam2_atlas.cli.outputs import JSON, NPZ, PNG, check_files
from medsam2_atlas.segmenters.registry import family_of, preferred, trainable

if TYPE_CHECKING:
    from medsam2_atlas.segmenters.base import Segmenter

DEFAULT = preferred("prompted")
"""Segmenter that runs by default."""


def segment_command(
    image: Annotated[Path, typer.Argument(help="CT: NIfTI, NRRD, MHA or a DICOM series (its folder, or one of its files).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Label map to write; the suffix chooses the format.")],
    segmenter: Annotated[str, typer.Option("--segmenter", help=f"{SEGMENTERS}; see the README.")] = DEFAULT,
    atlas: Annotated[Path | None, typer.Option("--atlas", help="Folder of the atlas.")] = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    organs: Annotated[str, typer.Option(help="Comma-separated names or numbers; all by default.")] = "",
    prompts: Annotated[
        str,
        typer.Option(
            help="First boxes from the `atlas`, from a U-Net's coarse masks (`unet`), per organ from the better of `both`, "
            "or from the masks of a trained segmenter."
        ),
    ] = "atlas",
    unet_weights: UNetWeightsOption = None,
    folder: FolderOption = None,
    loop: Annotated[Loop, typer.Option(help="Propagation loop.")] = "symmetric",
    thresholds: Annotated[
        ThresholdRule,
        typer.Option(help="The atlas' own (see `thresholds`), published ones, or min(0.5, half the maximum)."),
    ] = DEFAULT_THRESHOLDS,
    fill_holes: Annotated[bool, typer.Option(help="Fill small holes, as the official CUDA build does.")] = False,
    truth: Annotated[Path | None, typer.Option(help="True label map; for the reference strategies only.")] = None,
    report: Annotated[Path | None, typer.Option(help="JSON report to write.")] = None,
    preview: Annotated[Path | None, typer.Option(help="PNG with an overlay to write.")] = None,
    hu: HuOption = "check",
    device: DeviceOption = "auto",
    strategy: Annotated[str | None, typer.Option("--strategy", hidden=True)] = None,
    unet: Annotated[Path | None, typer.Option("--unet", hidden=True)] = None,
) -> None:
    """Segment a CT."""
    segmenter = check_segmenter(renamed(segmenter, strategy, "--strategy", "--segmenter", DEFAULT), truth is not None)
    if unet is not None:
        unet_weights = Path(renamed(str(unet_weights or ""), str(unet), "--unet", "--unet-weights", ""))
    if prompts not in PROMPTS and family_of(prompts).role != "trained":
        raise InputError(prompts, "gives no coarse masks to prompt from.", "Choose atlas, unet, both or a trained segmenter.")
    others = {"--prompts": prompts != "atlas", "--loop": loop != "symmetric", "--fill-holes": fill_holes}
    others["--thresholds"] = thresholds != DEFAULT_THRESHOLDS
    if family_of(segmenter).role == "trained" and any(others.values()):
        unused = ", ".join(option for option, given in others.items() if given)
        raise InputError(segmenter, f"has no use for {unused}.", "These options are for the strategies of MedSAM2.")
    folders = named_folders(folder)
    from medsam2_atlas.imaging.hounsfield import HuRule, read_ct
    from medsam2_atlas.imaging.kinds import SUFFIXES
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.imaging.volume import read_labels, write_volume

    check_files((out, SUFFIXES), (report, JSON), (preview, PNG), inputs=(image, truth))
    rule = HuRule.parse(hu)
    chosen = tuple(organ_table().select(o for o in organs.split(",") if o))
    from medsam2_atlas.imaging.preview import write_preview
    from medsam2_atlas.prompting import prompts_from_report
    from medsam2_atlas.segmenters.base import Options
    from medsam2_atlas.studies.models import Models
    from medsam2_atlas.studies.runner import run

    paths = {"atlas": atlas, "checkpoint": checkpoint, "config": config, **dict.fromkeys(trainable(), unet_weights)}
    models = Models({key: str(value) for key, value in paths.items() if value} | {"device": device} | folders, hu=rule)
    used = models.segmenter(segmenter)
    _tell_of_weights(used)
    volume = read_ct(image, rule)
    if volume.hu is not None and volume.hu["offset"]:
        console.print(f"[yellow]values:[/] {volume.hu['offset']:+g} to get HU (--hu {rule})")
    true_labels = read_labels(truth, volume) if truth is not None else None
    options = Options(chosen, prompts, loop=loop, thresholds=thresholds, fill_holes=fill_holes, truth=true_labels)
    if used.uses_network:
        console.print(f"networks run on {models.device}")
    with bars() as progress, reporting(progress):
        result = run(used, volume, options, models).segmentation
    told = result.report
    if told.memory:
        console.print(f"[yellow]memory:[/] {told.memory}", soft_wrap=True)
    write_volume(result.labels, out)
    if report is not None:
        write_json(told.to_json(), report)
    if preview is not None:
        write_preview(volume, result.labels.array, preview, prompts_from_report(told.prompts or []), told.mark or "")
    table = Table("organ", "ml", "note")
    for organ, millilitres in told.volumes_ml.items():
        notes = [*(told.fallbacks or {}).get(organ, []), (told.without_prompt or {}).get(organ, "")]
        table.add_row(organ, f"{millilitres:.1f}", "; ".join(n for n in notes if n))
    console.print(table)
    echo(f"{out} written in {told.seconds['total']:.1f} s by {segmenter}")


def _tell_of_weights(segmenter: Segmenter) -> None:
    """Prints file, checksum and mark of a segmenter's weights."""
    about = segmenter.used_weights()
    if about:
        console.print(f"weights: {about['file']} (SHA-256 {about['sha256']})", soft_wrap=True)
        if about.get("mark"):
            console.print(f"[yellow]{about['mark']}[/]")


def propagate_command(
    image: Annotated[Path, typer.Argument(help="CT: NIfTI, NRRD, MHA or a DICOM series (its folder, or one of its files).")],
    prompts: Annotated[Path, typer.Option("--prompts", help="Prompts as JSON, in voxel indices of the LPS volume.")],
    logits: Annotated[Path, typer.Option("--logits", help="Logits to write, .npz.")],
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    loop: Annotated[Loop, typer.Option(help="Propagation loop.")] = "symmetric",
    window: Annotated[tuple[float, float] | None, typer.Option(help="HU range that is kept; default: as configured.")] = None,
    fill_holes: Annotated[bool, typer.Option(help="Fill small holes, as the official CUDA build does.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Run the propagation engine alone: boxes in, logits out, one float32 array [slices, H, W] per label."""
    if window and not (window[0] < window[1] and all(map(math.isfinite, window))):
        raise InputError(str(window), "is not a HU window.", "Give the lower bound, then the upper one.")
    check_files((logits, NPZ), inputs=(image, prompts))
    import numpy as np

    from medsam2_atlas.base.device import pick_device
    from medsam2_atlas.base.memory import Ladder
    from medsam2_atlas.imaging.volume import read_volume
    from medsam2_atlas.medsam2 import MedSAM2Volume, OrganLogits, find_checkpoint, load_weights
    from medsam2_atlas.prompting import read_prompts

    weights = load_weights(find_checkpoint(checkpoint), config)
    ladder = Ladder(pick_device(device))
    console.print(f"networks run on {ladder.device}")
    volume = read_volume(image)
    asked = read_prompts(prompts, volume.geometry)
    with bars() as progress:

        def attempt(memory: Memory) -> dict[int, OrganLogits]:
            engine = MedSAM2Volume(weights.on(ladder.device_of(memory)), volume.array, window=window, memory=memory)
            return engine.segment(asked, loop=loop, fill_holes=fill_holes, progress=progress)

        found, step = ladder.run("propagation", attempt)
    if step.note:
        console.print(f"[yellow]memory:[/] {step.note}", soft_wrap=True)
    rows_columns = (volume.array.shape[1], volume.array.shape[2])
    with replacing(logits) as part, part.open("wb") as stream:
        arrays = {
            str(k): np.stack([f.plane(f.z_min + n, rows_columns).numpy() for n in range(len(f.values))])
            for k, f in found.items()
        }
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    echo(f"{logits} written: labels {', '.join(arrays)}; weights {weights.file} (SHA-256 {weights.sha256})")
    if weights.mark:
        echo(weights.mark)
