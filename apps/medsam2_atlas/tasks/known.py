"""Checks the names of models, strategies and studies in requests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from monailabel.interfaces.datastore import Datastore

from medsam2_atlas.base.errors import NotFoundError, WeightsError

_SHOWN = 80
"""Max number of characters of a client's text that are repeated in an error message."""


def check_name(name: str, known: Collection[str], what: str) -> None:
    """Refuses an unknown name in a request.

    Args:
        name: name in the request.
        known: the known names.
        what: kind of name, such as `trainer`.

    Raises:
        NotFoundError: the name is unknown; the remedy lists the known ones.
    """
    if name not in known:
        raise NotFoundError(repr(name[:_SHOWN]), f"is not a known {what}.", _choose(known))


def check_model(model: str, models: Collection[str], missing: Callable[[], Mapping[str, str]] = dict) -> None:
    """Refuses a model that is unknown or cannot run.

    Args:
        model: name in the request.
        models: the known names.
        missing: returns the reasons why models cannot run, by name; called only if the model is known.

    Raises:
        NotFoundError: the model is unknown.
        WeightsError: the model cannot run.
    """
    check_name(model, models, "model")
    reason = missing().get(model)
    if reason:
        raise WeightsError(model, f"cannot run: {reason}")


def check_strategy(strategy: str, strategies: Collection[str]) -> None:
    """Refuses an unknown strategy for the next case.

    Raises:
        NotFoundError: the strategy is unknown; the remedy lists the known ones.
    """
    if strategy not in strategies:
        raise NotFoundError(repr(strategy[:_SHOWN]), "is not a known strategy.", _choose(strategies))


def check_study(study: str, datastore: Datastore) -> None:
    """Refuses a study that the datastore does not contain.

    Raises:
        NotFoundError: the study is unknown.
    """
    if study not in datastore.list_images():
        raise unknown_study(study)


def unknown_study(study: str, what: str = "study") -> NotFoundError:
    """Returns the error for an unknown study; `what` replaces the word "study", for example by "series"."""
    return NotFoundError(repr(study[:_SHOWN]), f"is not a known {what}.", "Request /datastore for the list of studies.")


def _choose(known: Collection[str]) -> str:
    return f"Choose from: {', '.join(known)}."
