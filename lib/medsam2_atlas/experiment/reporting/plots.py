"""The plots of an experiment, drawn, with titles and captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from medsam2_atlas.base.files import replacing
from medsam2_atlas.experiment.reporting.accuracy_plots import MAX_ERROR_MM, dice_plot, prompt_plot, volume_pairs, volume_plot
from medsam2_atlas.experiment.reporting.confusion import confusion_plot
from medsam2_atlas.experiment.reporting.cost_plots import CostPanel, break_even_plot, seconds_plot
from medsam2_atlas.experiment.reporting.curve_plots import Panel, curve_plot
from medsam2_atlas.experiment.results import Results
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.pages import svg


@dataclass(frozen=True)
class Plot:
    """A drawn plot.

    Attributes:
        name: name of its file, without suffix: see `Variant.folder` for its characters.
        title: title on the page.
        caption: explanation below the plot: how to read it, and what does not count.
        content: the plot as SVG.
        folded: whether the page shows it only on request.
    """

    name: str
    title: str
    caption: str
    content: bytes
    folded: bool = False


def accuracy_plots(results: Results, best: Variant | None) -> list[Plot]:
    """Returns the plots of accuracy: Dice per organ, Dice and prompt errors, volumes, confusion.

    Args:
        results: the experiment.
        best: the variant whose confusion is shown at once; those of other main variants are folded.
    """
    found = _drawn(
        "dice", "Dice per organ", dice_plot(results) if results.main else None,
        "Box: first to third quartile of the cases; line: median; whiskers: up to 1.5 times the box; dots: values beyond.",
    )  # fmt: skip
    found += _drawn(
        "prompts", "Dice and centre error", prompt_plot(results),
        "One dot per organ and case: distance between the centres of the first prompting region and of the true region. Line: "
        f"medians in bins of the error with at least three dots. Errors above {MAX_ERROR_MM:.0f} mm are drawn at "
        f"{MAX_ERROR_MM:.0f} mm. Organs without a prompt are not drawn.",
    )  # fmt: skip
    alone = {variant.name: volume_pairs(results, variant)[1] for variant in results.main}
    missing = ", ".join(f"{name} {count}" for name, count in alone.items() if count)
    found += _drawn(
        "volumes", "Agreement of volumes (Bland–Altman)", volume_plot(results),
        "One dot per organ and case. Difference: prediction minus ground truth, in percent of their mean, because the organs' "
        "volumes differ by a factor of several hundred. Solid line: mean difference; dashed lines: limits of agreement, ± 1.96 "
        "standard deviations. " + (f"Organs that only one label map contains are not drawn: {missing}." if missing else ""),
    )  # fmt: skip
    ordered = sorted(results.main, key=lambda variant: variant != best)
    for variant in ordered:
        found += _drawn(
            f"confusion-{variant.folder}", f"Confusion between organs, {variant.name}",
            confusion_plot(results, variant),
            "Row: organ in the ground truth. Numbers: percentage of its voxels that the prediction gives to each organ or to "
            "the background, as a mean over cases. Bold: correct. Shares below 0.5 % are omitted.",
            folded=best is not None and variant != best,
        )  # fmt: skip
    return found


def curve_plots(name: str, title: str, caption: str, panels: Sequence[Panel]) -> list[Plot]:
    """Returns a plot of curves; no plot without panels.

    Args:
        name: name of its file, without suffix.
        title: title on the page.
        caption: explanation below the plot.
        panels: the curves.
    """
    return _drawn(name, title, curve_plot(panels) if panels else None, caption)


def cost_plots(results: Results, break_even: Sequence[CostPanel] = ()) -> list[Plot]:
    """Returns the plots of cost: seconds per stage, and break-even.

    Args:
        results: the experiment.
        break_even: cumulated costs of this evaluation, and of publications; panels without lines are omitted.
    """
    found = _drawn("seconds", "Time per case", seconds_plot(results), "Mean over the cases, divided into stages.")
    panels = [panel for panel in break_even if panel.lines]
    crossings = [(panel, *crossing) for panel in panels for crossing in panel.crossings]
    sentences = [
        f"{panel.title}: {trained.name} costs less than {plain.name} from {cases:.0f} cases on."
        for panel, plain, trained, cases in crossings
    ]
    return found + _drawn(
        "break-even", "Cumulated cost and break-even", break_even_plot(panels) if panels else None,
        "Dashed lines begin with the cost of training. " + (" ".join(sentences) or "No trained network becomes cheaper."),
    )  # fmt: skip


def write_plots(plots: Iterable[Plot], folder: Path) -> None:
    """Writes plots as SVG files into a folder, which is created if missing.

    Args:
        plots: the plots.
        folder: the folder; its parent must exist.
    """
    folder.mkdir(exist_ok=True)
    for plot in plots:
        with replacing(folder / f"{plot.name}.svg") as part:
            part.write_bytes(plot.content)


def _drawn(name: str, title: str, figure: Figure | None, caption: str, *, folded: bool = False) -> list[Plot]:
    """Returns the plot in a list; an empty list without a figure."""
    return [] if figure is None else [Plot(name, title, caption.strip(), svg(figure), folded)]
