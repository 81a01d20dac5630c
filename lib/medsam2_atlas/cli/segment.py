"""`medsam2-atlas segment` and `propagate`: segment one CT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, Loop, Memory, ThresholdRule
from medsam2_atlas.base.console import Table, bars, console, echo, show
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import replacing, write_json
from medsam2_atlas.base.progress import reporting
from medsam2_atlas.cli.as_published import AsPublishedOption, follow_published_method, print_other_registration
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
    renamed,
)
from medsam2_atlas.cli.outputs import JSON, NPZ, PNG, check_files
from medsam2_atlas.segmenters.registry import family_of, preferred, trainable

if TYPE_CHECKING:
    from medsam2_atlas.segmenters.base import Segmenter

DEFAULT = preferred("prompted")
"""Name of the default segmenter."""


def segment_command(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(help="CT: NIfTI, NRRD, MHA or a DICOM series (its folder, or one of its files).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Label map file to write; its suffix selects the format.")],
    segmenter: Annotated[str, typer.Option("--segmenter", help=f"Segmenter to run; see docs/method.md. {CHOICES}")] = DEFAULT,
    atlas: AtlasOption = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    organs: Annotated[str, typer.Option(help="Comma-separated names or numbers of the organs to segment. Default: all.")] = "",
    prompts: Annotated[
        str,
        typer.Option(
            help="Source of the first boxes: the `atlas`, a U-Net's coarse masks (`unet`), the better of these two for each "
            "organ (`both`), or the name of a trained segmenter."
        ),
    ] = "atlas",
    unet_weights: UNetWeightsOption = None,
    folder: FolderOption = None,
    loop: Annotated[
        Loop,
        typer.Option(
            help="Propagation loop: all boxes of a direction condition it from the start (symmetric), or as in the published "
            "script (published)."
        ),
    ] = "symmetric",
    mode: ModeOption = "exact",
    thresholds: Annotated[
        ThresholdRule,
        typer.Option(
            help="Thresholds of the score maps: those stored with the atlas (atlas; see `medsam2-atlas thresholds`), the "
            "published ones (published), or the smaller of 0.5 and half the map's maximum (adaptive)."
        ),
    ] = DEFAULT_THRESHOLDS,
    registration: RegistrationOption = None,
    as_published: AsPublishedOption = False,
    fill_holes: Annotated[bool, typer.Option(help="Fill small holes in the masks, as the official CUDA build does.")] = False,
    truth: Annotated[
        Path | None, typer.Option(help="Ground-truth label map. Required for reference-1 and reference-3; not used otherwise.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="JSON file to write the report to. Default: none.")] = None,
    preview: Annotated[Path | None, typer.Option(help="PNG file to write an overlay to. Default: none.")] = None,
    hu: HuOption = "check",
    device: DeviceOption = "auto",
    strategy: Annotated[str | None, typer.Option("--strategy", hidden=True)] = None,
    unet: Annotated[Path | None, typer.Option("--unet", hidden=True)] = None,
) -> None:
    """Segment the organs of a CT and write the label map."""
    segmenter = check_segmenter(renamed(segmenter, strategy, "--strategy", "--segmenter", DEFAULT), truth is not None)
    if unet is not None:
        unet_weights = Path(renamed(str(unet_weights or ""), str(unet), "--unet", "--unet-weights", ""))
    check_prompts(prompts)
    given = {"--prompts": prompts != "atlas", "--loop": loop != "symmetric", "--mode": mode != "exact"}
    given |= {"--fill-holes": fill_holes, "--thresholds": thresholds != DEFAULT_THRESHOLDS, "--as-published": as_published}
    given |= {"--registration": registration is not None}
    if family_of(segmenter).role == "trained" and any(given.values()):
        unused = ", ".join(option for option, used in given.items() if used)
        raise InputError(segmenter, f"does not use {unused}.", "Omit these options; only the strategies of MedSAM2 use them.")
    folders = named_folders(folder)
    if as_published:
        follow_published_method(context)
    choose_registration(registration)
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
    from medsam2_atlas.studies.as_published import published_options
    from medsam2_atlas.studies.models import Models
    from medsam2_atlas.studies.runner import run

    paths = {"atlas": atlas, "checkpoint": checkpoint, "config": config, **dict.fromkeys(trainable(), unet_weights)}
    models = Models({key: str(value) for key, value in paths.items() if value} | {"device": device} | folders, hu=rule)
    used = models.segmenter(segmenter)
    used.check()  # reports a missing atlas or missing weights before the CT is decoded
    _print_weights(used)
    volume = read_ct(image, rule)
    if volume.hu is not None and volume.hu["offset"]:
        console.print(f"[yellow]values:[/] {volume.hu['offset']:+g} was added to get HU (--hu {rule})")
    true_labels = read_labels(truth, volume) if truth is not None else None
    options = Options(chosen, prompts, loop=loop, mode=mode, thresholds=thresholds, fill_holes=fill_holes, truth=true_labels)
    if as_published:
        options = published_options(options)
        print_other_registration(models.base_atlas())
    if used.uses_network:
        console.print(f"networks run on {models.device}")
        print_mode(mode)
    with bars() as progress, reporting(progress):
        result = run(used, volume, options, models).segmentation
    content = result.report
    if content.memory:
        console.print(f"[yellow]memory:[/] {content.memory}", soft_wrap=True)
    if content.agreement_unknown:
        console.print(f"[yellow]agreement_power:[/] {content.agreement_unknown}", soft_wrap=True)
    write_volume(result.labels, out)
    if report is not None:
        write_json(content.to_json(), report)
    if preview is not None:
        write_preview(volume, result.labels.array, preview, prompts_from_report(content.prompts or []), content.mark or "")
    table = Table("organ", "ml", "note")
    for organ, millilitres in content.volumes_ml.items():
        notes = [*(content.fallbacks or {}).get(organ, []), (content.without_prompt or {}).get(organ, "")]
        differ = (content.disagreement or {}).get(organ)
        notes += [] if differ is None else [f"score map and network differ on {differ:.0%} of its voxels"]
        table.add_row(organ, f"{millilitres:.1f}", "; ".join(n for n in notes if n))
    show(table)
    echo(f"{out} written in {content.seconds['total']:.1f} s by {segmenter}")


def _print_weights(segmenter: Segmenter) -> None:
    """Prints the file, checksum and mark of a segmenter's weights, if it has weights."""
    about = segmenter.used_weights()
    if about:
        console.print(escape(f"weights: {about['file']} (SHA-256 {about['sha256']})"), soft_wrap=True)
        if about.get("mark"):
            console.print(f"[yellow]{escape(about['mark'])}[/]")


def propagate_command(
    image: Annotated[Path, typer.Argument(help="CT: NIfTI, NRRD, MHA or a DICOM series (its folder, or one of its files).")],
    logits: Annotated[Path, typer.Option("--logits", help="File (.npz) to write the logits to.")],
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="JSON file of prompts, in voxel indices of the LPS volume. Optional with `--mask`."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            help="Label map on the grid of the CT, to refine: boxes and points correct its labels, missing slices between its "
            "slices are segmented, and everything else stays.",
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    loop: Annotated[Loop, typer.Option(help="Propagation loop; see `segment`.")] = "symmetric",
    mode: ModeOption = "exact",
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lower and upper HU bound to which the CT is clipped. Default: as in configs/medsam2.yaml."),
    ] = None,
    fill_holes: Annotated[bool, typer.Option(help="Fill small holes in the masks, as the official CUDA build does.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Run only MedSAM2's propagation from given boxes; write the logits of each label, a float32 array of shape (z, y, x).

    With `--mask`, boxes and points correct a given label map. The file then also has each label's first slice, `z_min_LABEL`.
    """
    if prompts is None and mask is None:
        raise InputError("propagate", "has neither prompts nor a mask.", "Give --prompts, --mask or both.")
    if window and not (window[0] < window[1] and all(map(math.isfinite, window))):
        raise InputError(str(window), "is not a HU window.", "Give a lower bound and a larger upper bound, in HU.")
    check_files((logits, NPZ), inputs=(image, prompts, mask))
    import numpy as np

    from medsam2_atlas.base.device import pick_device
    from medsam2_atlas.base.memory import Ladder
    from medsam2_atlas.cli.refining import refined_logits
    from medsam2_atlas.imaging.volume import read_labels, read_volume
    from medsam2_atlas.medsam2 import MedSAM2Volume, find_checkpoint, load_weights
    from medsam2_atlas.prompting import read_prompts

    weights = load_weights(find_checkpoint(checkpoint), config)
    ladder = Ladder(pick_device(device))
    console.print(f"networks run on {ladder.device}")
    print_mode(mode)
    volume = read_volume(image)
    given = None if mask is None else read_labels(mask, volume)
    boxes = read_prompts(prompts, volume.geometry) if prompts is not None and given is None else []
    rows_columns = (volume.array.shape[1], volume.array.shape[2])
    with bars() as progress:

        def attempt(memory: Memory) -> dict[str, np.ndarray]:
            engine = MedSAM2Volume(weights.on(ladder.device_of(memory)), volume.array, window=window, memory=memory, mode=mode)
            if given is not None:
                return refined_logits(engine, volume, given, prompts, loop=loop, fill_holes=fill_holes, progress=progress)
            found = engine.segment(boxes, loop=loop, fill_holes=fill_holes, progress=progress)
            return {str(k): f.planes(rows_columns) for k, f in found.items()}

        arrays, step = ladder.run("propagation", attempt)
    if step.note:
        console.print(f"[yellow]memory:[/] {step.note}", soft_wrap=True)
    with replacing(logits) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    echo(
        f"{logits} written: labels {', '.join(filter(str.isdigit, arrays))}; weights {weights.file} (SHA-256 {weights.sha256})"
    )
    if weights.mark:
        echo(weights.mark)
