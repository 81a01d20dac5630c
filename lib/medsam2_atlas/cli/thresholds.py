"""`medsam2-atlas thresholds`: finds thresholds of score maps and weights of strategy F, leaving out one reference at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medsam2_atlas.base.choices import Fusion
from medsam2_atlas.base.console import Table, bars, console, echo, show
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli.cases import print_left_out
from medsam2_atlas.cli.options import ConfigOption, DeviceOption
from medsam2_atlas.cli.outputs import check_folder

if TYPE_CHECKING:
    from medsam2_atlas.atlas import Atlas, ReferenceFiles


def thresholds_command(
    atlas: Annotated[Path, typer.Argument(help="Atlas folder.")],
    fusion: Annotated[
        Fusion | None, typer.Option(help="Label fusion that the thresholds are for. Default: as in configs/fusion.yaml.")
    ] = None,
    store: Annotated[bool, typer.Option(help="Store the thresholds and weights with the atlas.")] = True,
    references: Annotated[
        Path | None,
        typer.Option(
            help="Folder with images/ and labels/ that the atlas was built from. MedSAM2 then segments each reference, and the "
            "weights of strategy F are learnt, too."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="MedSAM2 weights file (.pt) that the weights of strategy F are for. Default: as for `segment`."),
    ] = None,
    config: ConfigOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the best threshold of each organ's score map, and with `--references` the weights of strategy F; store them."""
    if references is None and checkpoint is not None:
        raise InputError("--checkpoint", "has no effect without --references.", "Add --references, or omit --checkpoint.")
    from medsam2_atlas.atlas import Atlas, resolve_atlas
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.scoremaps import find_thresholds, fusion_config, with_thresholds

    folder = resolve_atlas(atlas)
    if store:
        check_folder(folder, replaced=True)
    loaded, settings = Atlas.load(folder), fusion_config()
    if fusion is not None:
        settings = settings.with_method(fusion)
    files = None if references is None else _usable_files(loaded, references, checkpoint)
    with bars() as progress:
        found = find_thresholds(loaded, settings, progress)
    table = Table(
        "organ", "published", "best here", "box overlap", title=f"{found.references} references, fusion {found.fusion}"
    )
    for k, value in found.values.items():
        organ = organ_table()[k]
        table.add_row(organ.display, f"{organ.published_threshold:.2f}", f"{value:.2f}", f"{found.overlap[k]:.2f}")
    show(table)
    result = with_thresholds(loaded, found)
    if files is not None:
        result = _with_weights(result, files, checkpoint, config, device)
    if store:
        result.save(folder)
        echo(f"stored with {folder}")


def _usable_files(atlas: Atlas, references: Path, checkpoint: Path | None) -> list[ReferenceFiles]:
    """Returns the files of the references; checks them and the checkpoint before the search for thresholds takes its time."""
    from medsam2_atlas.atlas import find_references
    from medsam2_atlas.medsam2 import find_checkpoint
    from medsam2_atlas.segmenters.joint_leave_one_out import checked_files

    find_checkpoint(checkpoint)
    files = find_references(references, {})
    checked_files(atlas, files)
    return files


def _with_weights(
    atlas: Atlas, files: Sequence[ReferenceFiles], checkpoint: Path | None, config: str | None, device: str
) -> Atlas:
    """Learns the weights of strategy F for an atlas and a checkpoint; prints them and their cost; adds them to the atlas."""
    from medsam2_atlas.base.device import pick_device
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.medsam2 import find_checkpoint, load_weights
    from medsam2_atlas.segmenters.joint_leave_one_out import checked_files, learn_for_atlas
    from medsam2_atlas.segmenters.joint_weights import with_joint_weights

    count = len(checked_files(atlas, files)[0])
    weights = load_weights(find_checkpoint(checkpoint), config, pick_device(device))
    console.print(escape(f"weights: {weights.file} (SHA-256 {weights.sha256})"), soft_wrap=True)
    console.print(
        f"MedSAM2 segments each of {count} references once, with one registration each: about the time of "
        f"{count} runs of `segment --segmenter B` on {weights.device}.",
        soft_wrap=True,
    )
    began = time.perf_counter()
    with bars() as progress:
        found, unusable = learn_for_atlas(atlas, files, weights, progress)
    seconds = time.perf_counter() - began
    print_left_out(unusable)
    title = f"{found.references} references left out in turn"
    table = Table("organ", "network", "score map", "Dice, weights 1", "Dice", title=title)
    for k, value in found.weights.network.items():
        row = (value, found.weights.maps[k], found.before.get(k), found.after.get(k))
        table.add_row(organ_table()[k].display, *("" if v is None else f"{v:.3f}" for v in row))
    show(table)
    echo(f"weights of strategy F learnt in {seconds:.0f} s, {seconds / count:.1f} s per reference")
    return with_joint_weights(atlas, weights.sha256, found)
