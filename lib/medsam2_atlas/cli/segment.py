"""`medsam2-atlas segment` and `propagate`: one CT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from medsam2_atlas.base.choices import REFERENCE_STRATEGIES, Loop, Memory, PromptSource, Strategy, ThresholdRule
from medsam2_atlas.base.console import bars, console, echo
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import replacing, write_json
from medsam2_atlas.cli.options import CheckpointOption, ConfigOption, DeviceOption, HuOption
from medsam2_atlas.cli.outputs import JSON, NPZ, PNG, check_files


def segment_command(
    image: Annotated[Path, typer.Argument(help="CT: NIfTI, NRRD, MHA or a DICOM series (its folder, or one of its files).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Label map to write; the suffix chooses the format.")],
    atlas: Annotated[Path | None, typer.Option("--atlas", help="Folder of the atlas.")] = None,
    strategy: Annotated[Strategy, typer.Option(help="How prompts are made; see the README.")] = "D",
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    organs: Annotated[str, typer.Option(help="Comma-separated names or numbers; all by default.")] = "",
    prompts: Annotated[
        PromptSource, typer.Option(help="First boxes from the atlas, a U-Net's coarse mask, or per organ the better of both.")
    ] = "atlas",
    unet: Annotated[Path | None, typer.Option("--unet", help="U-Net weights (.pt); default: those of unet_3d.")] = None,
    loop: Annotated[Loop, typer.Option(help="Propagation loop.")] = "symmetric",
    thresholds: Annotated[
        ThresholdRule,
        typer.Option(help="The atlas' own (see `thresholds`), published ones, or min(0.5, half the maximum)."),
    ] = "atlas",
    fill_holes: Annotated[bool, typer.Option(help="Fill small holes, as the official CUDA build does.")] = False,
    truth: Annotated[Path | None, typer.Option(help="True label map; for the reference strategies only.")] = None,
    report: Annotated[Path | None, typer.Option(help="JSON report to write.")] = None,
    preview: Annotated[Path | None, typer.Option(help="PNG with an overlay to write.")] = None,
    hu: HuOption = "check",
    device: DeviceOption = "auto",
) -> None:
    """Segment a CT."""
    from medsam2_atlas.imaging.hounsfield import HuRule, read_ct
    from medsam2_atlas.imaging.kinds import SUFFIXES
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.imaging.volume import read_labels, write_volume

    if (truth is not None) != (strategy in REFERENCE_STRATEGIES):
        raise InputError("--truth", "goes with the strategies reference-1 and reference-3, and only with them.")
    check_files((out, SUFFIXES), (report, JSON), (preview, PNG), inputs=(image, truth))
    rule = HuRule.parse(hu)
    chosen = tuple(organ_table().select(o for o in organs.split(",") if o))
    from medsam2_atlas.atlas import Atlas, resolve_atlas
    from medsam2_atlas.base.device import pick_device
    from medsam2_atlas.base.memory import Ladder
    from medsam2_atlas.imaging.preview import write_preview
    from medsam2_atlas.medsam2 import find_checkpoint, load_weights
    from medsam2_atlas.prompting import Prompts
    from medsam2_atlas.segmenters.strategies import Case, Options, segment_within_memory

    loaded_atlas = Atlas.load(resolve_atlas(atlas)) if atlas is not None else None
    weights = None
    if strategy != "atlas":
        weights = load_weights(find_checkpoint(checkpoint), config)
        console.print(f"weights: {weights.file} (SHA-256 {weights.sha256})", soft_wrap=True)
        if weights.mark:
            console.print(f"[yellow]{weights.mark}[/]")
    loaded_unet = None
    if prompts != "atlas":
        from medsam2_atlas.segmenters.places import find_unet
        from medsam2_atlas.unet import load_unet

        loaded_unet = load_unet(find_unet("unet_3d", unet))
    volume = read_ct(image, rule)
    if volume.hu is not None and volume.hu["offset"]:
        console.print(f"[yellow]values:[/] {volume.hu['offset']:+g} to get HU (--hu {rule})")
    true_labels = read_labels(truth, volume) if truth is not None else None
    options = Options(chosen, prompts, loop, thresholds, fill_holes)
    ladder = Ladder(pick_device("cpu" if weights is None else device))
    if weights is not None:
        console.print(f"networks run on {ladder.device}")
    with bars() as progress:
        case = Case(volume, loaded_atlas, weights, true_labels, options, progress, loaded_unet)
        result, case = segment_within_memory(case, strategy, ladder)
    if "memory" in result.report:
        console.print(f"[yellow]memory:[/] {result.report['memory']}", soft_wrap=True)
    write_volume(result.labels, out)
    if report is not None:
        write_json(result.report, report)
    if preview is not None:
        last = case.passes[-1] if case.passes else Prompts(())
        write_preview(volume, result.labels.array, preview, last.prompts, result.report.get("mark", ""))
    table = Table("organ", "ml", "note")
    for organ, millilitres in result.report["volumes_ml"].items():
        notes = [*result.report["fallbacks"].get(organ, []), result.report["without_prompt"].get(organ, "")]
        table.add_row(organ, f"{millilitres:.1f}", "; ".join(n for n in notes if n))
    console.print(table)
    echo(f"{out} written in {result.report['seconds']['total']:.1f} s, strategy {strategy}")


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
            str(k): np.stack([f.plane(f.z_min + n, rows_columns).numpy() for n in range(len(f.low))]) for k, f in found.items()
        }
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    echo(f"{logits} written: labels {', '.join(arrays)}; weights {weights.file} (SHA-256 {weights.sha256})")
    if weights.mark:
        echo(weights.mark)
