"""Writes the tables of accuracy as `tables.md` and `tables.tex`. They contain no times, so equal records give equal files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsam2_atlas.base.files import replacing
from medsam2_atlas.experiment.reporting.accuracy import PublishedDice, accuracy_table
from medsam2_atlas.experiment.reporting.latex import PACKAGES, latex
from medsam2_atlas.experiment.reporting.markdown import markdown
from medsam2_atlas.experiment.reporting.paired_table import interval_table, paired_table
from medsam2_atlas.experiment.reporting.statistics import estimates, paired_tests
from medsam2_atlas.experiment.reporting.summary import TESTED
from medsam2_atlas.experiment.reporting.table import Table
from medsam2_atlas.experiment.results import METRICS, Results


def accuracy_tables(results: Results, published: PublishedDice | None = None, *, seed: int = 0) -> list[Table]:
    """Returns all tables of accuracy: one per metric, then intervals and paired comparisons. Empty tables are omitted.

    Args:
        results: the records.
        published: published Dice, for columns beside one's own.
        seed: seed of the bootstrap.
    """
    tables = [accuracy_table(results, metric, published) for metric in METRICS]
    for metric in TESTED:
        main = [found for found in estimates(results, metric, seed=seed) if found.variant.is_main]
        tables.append(interval_table(main, metric))
        tables.append(paired_table(paired_tests(results, metric, seed=seed), metric))
    return [table for table in tables if table.columns and table.body]


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Writes tables as `tables.md` and `tables.tex` into a folder.

    Args:
        tables: the tables, in their order.
        folder: the folder.

    Raises:
        StorageError: if the folder does not exist.
    """
    contents = {
        "tables.md": "# Accuracy\n\n" + "\n".join(markdown(table) for table in tables),
        "tables.tex": PACKAGES + "\n".join(latex(table) for table in tables),
    }
    for name, content in contents.items():
        with replacing(folder / name) as part:
            part.write_text(content, encoding="utf-8")
