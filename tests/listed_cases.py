"""Lists the states of cases as dictionaries, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import ScoreTable
from tasks.case_states import CaseTable


def case_states(
    datastore: StudyDatastore, table: ScoreTable, models: tuple[str, ...], measuring: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Returns the fields of a `CaseState` for each case, sorted by name; see `CaseTable` for the arguments."""
    return [asdict(case) for case in CaseTable(datastore, table, models).states(measuring).values()]
