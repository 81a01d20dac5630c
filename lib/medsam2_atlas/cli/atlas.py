"""`medsam2-atlas atlas …`: builds, grows, lists and applies atlases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, MissingOrgan
from medsam2_atlas.base.console import Table, bars, console, echo, show
from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.files import replacing
from medsam2_atlas.cli.cases import print_left_out, training_cases
from medsam2_atlas.cli.cluster_options import (
    ClusterOption,
    TlsOption,
    WorkersOption,
    check_cluster_options,
    on_cluster,
)
from medsam2_atlas.cli.folders import study_folder
from medsam2_atlas.cli.options import AtlasOption, HuOption, RegistrationOption, StrictOption, choose_registration
from medsam2_atlas.cli.outputs import NPZ, check_files, check_folder

if TYPE_CHECKING:
    from medsam2_atlas.atlas import Atlas

app = typer.Typer(help="Build, grow and inspect the atlas of annotated CTs.", no_args_is_help=True)


@app.command("build")
def build_command(
    references: Annotated[Path, typer.Argument(help="Folder with images/ and labels/; a CT and its label map share a name.")],
    out: Annotated[Path, typer.Argument(help="Atlas folder to write; an existing atlas is replaced.")],
    missing: Annotated[
        MissingOrgan,
        typer.Option(
            help="Meaning of an organ that a label map lacks: not annotated (unknown), or not present in the patient (absent)."
        ),
    ] = "unknown",
    registration: RegistrationOption = None,
    hu: HuOption = "check",
    cluster: ClusterOption = "",
    workers: WorkersOption = 0,
    tls: TlsOption = None,
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            show_default=False,
            help="Number of references that are registered at the same time; each needs memory. Default: one for each CPU, at "
            "most 4. On a cluster: threads of PyTorch in each worker; default: 1.",
        ),
    ] = 0,
    strict: StrictOption = False,
) -> None:
    """Build an atlas: register annotated CTs into a common space and average their label maps there."""
    check_cluster_options(cluster, workers, tls)
    check_folder(out, replaced=True)
    choose_registration(registration)
    from medsam2_atlas.imaging.hounsfield import HuRule

    rule = HuRule.parse(hu)
    from medsam2_atlas.atlas import Atlas, BuildOptions, build_atlas, find_references

    Atlas.check_target(out)
    skipped: dict[str, str] | None = None if strict else {}
    found = find_references(references, skipped)
    from medsam2_atlas.base.mapping import side_by_side

    with on_cluster(cluster, workers, tls, threads, out.absolute().parent) as mapped, bars() as progress:
        options = BuildOptions(missing, rule)
        atlas = build_atlas(found, options, skipped=skipped, progress=progress, mapped=mapped or side_by_side(threads))
    atlas.save(out)
    _show(atlas)
    print_left_out(skipped)
    echo(f"atlas {atlas.version} of {len(atlas.references)} references written to {out}")


@app.command("grow")
def grow_command(
    studies: Annotated[Path, typer.Argument(help="Studies folder: CTs at its top, signed-off label maps in labels/final/.")],
    atlas: Annotated[
        Path | None,
        typer.Option("--atlas", help="Base atlas folder. Default: $MEDSAM2_ATLAS, else `atlas` in the model folder, if any."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Study to exclude from now on. Repeatable.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Excluded study to include again. Repeatable.")] = None,
    trust: Annotated[list[str] | None, typer.Option(help="Study to add although it is an outlier. Repeatable.")] = None,
    rebuild: Annotated[bool, typer.Option(help="Register all references again. Default: only the new ones.")] = False,
    registration: RegistrationOption = None,
    hu: HuOption = "check",
    strict: StrictOption = False,
) -> None:
    """Grow the atlas of a studies folder: add its signed-off label maps as references."""
    choose_registration(registration)
    from medsam2_atlas.imaging.hounsfield import HuRule

    rule = HuRule.parse(hu)
    from medsam2_atlas.audit.log import record_command
    from medsam2_atlas.studies import StudiesGrowthOptions, grow_studies_atlas

    folder = study_folder(studies)
    check_folder(folder.work.path)
    skipped: dict[str, str] | None = None if strict else {}
    finals = training_cases(folder, skipped)
    record_command(folder.work, "train.start", details={"model": "medsam2_atlas"})
    options = StudiesGrowthOptions(
        exclude=exclude or (), include=include or (), trust=trust or (), rebuild=rebuild, hu=rule, strict=strict
    )
    with bars() as progress:
        report = grow_studies_atlas(folder.work, base_atlas(atlas), finals, options, skipped=skipped, progress=progress)
    for name, reason in report["refused"].items():
        console.print(f"[yellow]refused:[/] {escape(name)}: {escape(reason)}")
    for what in ("added", "removed", "excluded"):
        if report[what]:
            echo(f"{what}: {', '.join(report[what])}")
    _warn_of(report["disagreeing"])
    echo(f"atlas {report['version']} of {report['references']} references: {report['folder']}")


@app.command("versions")
def versions_command(
    studies: Annotated[Path, typer.Argument(help="Studies folder.")],
    activate: Annotated[str, typer.Option(help="Version to make the current one. Default: no change.")] = "",
) -> None:
    """List the versions of a studies folder's atlas; with --activate, change the current one."""
    from medsam2_atlas.studies import atlas_store

    store = atlas_store(study_folder(studies).work)
    if activate:
        store.activate(activate)
    if not store.versions:
        console.print(
            f"{escape(str(studies))} has no atlas of its own yet; `medsam2-atlas atlas grow` makes one.", soft_wrap=True
        )
    for version in store.versions:
        current = store.current is not None and store.current.name == version
        echo(f"{'*' if current else ' '} {version}")


@app.command("info")
def info_command(folder: Annotated[Path, typer.Argument(help="Atlas folder.")]) -> None:
    """Print an atlas' organs, references and version."""
    from medsam2_atlas.atlas import Atlas, resolve_atlas

    atlas = Atlas.load(resolve_atlas(folder))
    _show(atlas)
    echo(f"version {atlas.version}; references: {', '.join(r.name for r in atlas.references)}")
    known = "with" if atlas.template.landmarks is not None else "without"
    echo(f"references registered to each other by: {atlas.registered_by}; {known} their keypoints")


@app.command("scores")
def scores_command(
    image: Annotated[Path, typer.Argument(help="CT: NIfTI, NRRD, MHA or a DICOM series (its folder, or one of its files).")],
    atlas: AtlasOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File (.npz) to write the score maps to, 0..255 per organ. Default: none."),
    ] = None,
    registration: RegistrationOption = None,
    hu: HuOption = "check",
) -> None:
    """Compute the score maps of a CT and print each organ's maximum score; with --out, write the maps."""
    check_files((out, NPZ), inputs=(image,))
    choose_registration(registration)
    from medsam2_atlas.imaging.hounsfield import HuRule, read_ct

    rule = HuRule.parse(hu)
    import numpy as np

    from medsam2_atlas.atlas import Atlas
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.scoremaps import fusion_config, score_maps, threshold_of
    from medsam2_atlas.segmenters.places import find_atlas

    loaded = Atlas.load(find_atlas(atlas))
    volume = read_ct(image, rule)
    with bars() as progress:
        scores = score_maps(volume, loaded, progress=progress)
    table = Table("organ", "highest score", "in the scan", "slices")
    for k, score in scores.maps.items():
        threshold = threshold_of(DEFAULT_THRESHOLDS, k, scores, organ_table(), fusion_config().thresholds)
        seen = np.flatnonzero((score.values > threshold * 255).any((1, 2))) + score.lower[0]
        table.add_row(
            organ_table()[k].display,
            f"{score.maximum:.2f}",
            f"{score.visible:.0%}",
            f"{seen[0]}–{seen[-1]}" if len(seen) else "none",
        )
    show(table)
    if out is not None:
        arrays = {}
        for k, score in scores.maps.items():
            arrays[f"{organ_table()[k].name}.values"] = score.values
            arrays[f"{organ_table()[k].name}.low_zyx"] = np.array(score.lower)
        with replacing(out) as part, part.open("wb") as stream:
            np.savez_compressed(stream, stride=np.array(scores.stride), **arrays)  # type: ignore[arg-type]


def base_atlas(given: Path | None) -> Atlas | None:
    """Returns the atlas in the folder `given`, or else the default atlas; None if there is no default atlas.

    Raises:
        AtlasError: the folder `given` contains no atlas.
    """
    from medsam2_atlas.atlas import Atlas
    from medsam2_atlas.segmenters.places import find_atlas

    try:
        return Atlas.load(find_atlas(given))
    except AtlasError:
        if given is not None:
            raise
        return None


def _show(atlas: Atlas) -> None:
    """Prints a table of an atlas' organs, and warnings about references that are outliers."""
    from medsam2_atlas.imaging.labels import organ_table

    table = Table("organ", "references", "highest share", "Dice between references")
    for k, organ_map in atlas.maps.items():
        agreement = f"{atlas.agreement[k]:.2f}" if k in atlas.agreement else ""
        table.add_row(organ_table()[k].display, str(organ_map.count), f"{organ_map.values.max() / 255:.2f}", agreement)
    show(table)
    _warn_of(atlas.disagreeing)


def _warn_of(disagreeing: Iterable[str]) -> None:
    for name in disagreeing:
        console.print(
            f"[yellow]warning:[/] {escape(name)} agrees with no other reference. Check its CT, its label map and its "
            "registration, or exclude it."
        )
