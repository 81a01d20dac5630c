"""Checks the parameters of work that clients start, by an allow-list with types that is derived from the task's options.

`/info` lists the options of each task. Clients send them back, with extra parameters of their own and of MONAI Label's
examples. The server checks and uses the options. It checks and drops the extra parameters, so that no text of a client reaches
a command line, an environment variable or a path: names are compared with those of this server; all other values are numbers or
flags.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
)

from medsam2_atlas.base.configuration import problems_of
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.storage import FINAL
from medsam2_atlas.studies import excluded_references
from server import choices
from tasks import replies

_MAX_BYTES = 60_000
"""Max bytes of parameters as JSON. They are one argument of a command, and Linux limits an argument to 128 KiB."""
_MAX_MARKS = 20_000
"""Max number of items, or of characters, in a list of marks."""

_MAX_MESSAGE = 1000

Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Device = Annotated[str, StringConstraints(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")]
_Dropped = Field(None, exclude=True)

_RANGES: dict[str, Any] = {
    "max_epochs": Annotated[int, Field(ge=1, le=100_000)],
    "early_stop_patience": Annotated[int, Field(ge=-1, le=100_000)],
    "val_split": Annotated[float, Field(ge=0, lt=1)],
    "learning_rate": Annotated[float, Field(gt=0, le=10)],
    "patches_per_case": Annotated[int, Field(ge=1, le=1000)],
    "cases_per_step": Annotated[int, Field(ge=1, le=1000)],
    "validate_every": Annotated[int, Field(ge=1, le=100_000)],
}
"""Types of the numeric options."""

_INPUTS: dict[str, Any] = {"label": Text, "mask": Text, "mask_version": Annotated[int, Field(ge=1, le=10**9)]}
"""Types of the inputs of interactive models that are not lists of marks."""


class Parameters(BaseModel):
    """The parameters that any client may send with any work. Fields with `exclude` are accepted without effect."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    client_id: Text | None = _Dropped
    name: Text | None = _Dropped
    description: Text | None = _Dropped
    model: Text | None = _Dropped
    method: Text | None = _Dropped
    strategy: Text | None = _Dropped
    device: Device | None = _Dropped
    gpus: Annotated[str, StringConstraints(pattern=r"^(all|[0-9]{1,2}(,[0-9]{1,2})*)$")] | None = _Dropped
    multi_gpu: bool | None = _Dropped
    logging: Text | None = _Dropped
    labels: list[Text] | dict[Text, int] | None = _Dropped


class TrainingParameters(Parameters):
    """The parameters of a training, besides the options of its task. `device` has an effect here."""

    device: Device | None = None
    dataset: Text | None = _Dropped
    dataloader: Text | None = _Dropped
    train_batch_size: int | None = _Dropped
    val_batch_size: int | None = _Dropped
    train_random_seed: int | None = _Dropped
    amp: bool | None = _Dropped
    tracking: Text | bool | None = _Dropped
    tracking_uri: Text | None = _Dropped
    tracking_experiment_name: Text | None = _Dropped
    tracking_run_name: Text | None = _Dropped


class BatchParameters(Parameters):
    """The parameters of a run on many studies, besides the options of the model."""

    max_workers: Annotated[int, Field(ge=0, le=64)] | None = None
    max_batch_size: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    save_label: bool | None = _Dropped
    result_extension: Text | None = _Dropped
    result_dtype: Text | None = _Dropped
    result_compress: bool | None = _Dropped
    restore_label_idx: bool | None = _Dropped


class InferParameters(BaseModel):
    """The parameters of a run on one image, besides the options of the model."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    result_extension: Text | None = None
    result_compress: bool | None = None


def training_parameters(app: Any, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a training that have an effect.

    Args:
        app: the MONAI Label app.
        model: name of the trained model.
        params: the client's parameters.

    Raises:
        InputError: a parameter is unknown, or a value has another type or is out of range.
    """

    def known() -> set[str]:
        return {*app.datastore().list_images(), *excluded_references(app._work)}

    options = _options(app._trainers[model].config(), known)
    return _checked(_with(TrainingParameters, options), params, f"training {model}")


def batch_parameters(app: Any, model: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a run on many studies that have an effect.

    Args:
        app: the MONAI Label app.
        model: name of the model.
        params: the client's parameters.

    Raises:
        InputError: a parameter is unknown, or a value has another type or is out of range.
    """

    def images(value: Any) -> Any:
        if value in ("all", "labeled", "unlabeled"):
            return value
        if not isinstance(value, list):
            raise ValueError("give all, labeled, unlabeled, or a list of studies")
        return choices.each_of(value, app.datastore().list_images(), "study")

    options = _options(app._infers[model].config()) | {
        "images": Annotated[Any, AfterValidator(images)],
        "label_tag": _one_of(lambda: _tags(app), "tag"),
    }
    return _checked(_with(BatchParameters, options), params, f"batch of {model}")


def scoring_parameters(app: Any, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a scoring that have an effect: the tags `y` and `y_pred`.

    Args:
        app: the MONAI Label app.
        method: name of the scoring method.
        params: the client's parameters.

    Raises:
        InputError: a parameter is unknown, or a tag does not exist.
    """
    tag = _one_of(lambda: _tags(app), "tag")
    return _checked(_with(Parameters, {"y": tag, "y_pred": tag}), params, f"scoring {method}")


def sample_parameters(app: Any, strategy: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of the choice of a case that have an effect. Clients may send those of all strategies at once.

    Args:
        app: the MONAI Label app.
        strategy: name of the strategy.
        params: the client's parameters.

    Raises:
        InputError: a parameter is unknown, or a value has another type or is out of range.
    """
    options = {"label_tag": _one_of(lambda: _tags(app), "tag"), "client_id": Text}
    sent = {key: value for key, value in params.items() if key not in app._strategies}
    return _checked(_with(Parameters, options), sent, f"strategy {strategy}")


def infer_parameters(model: str, task: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a run on one image that have an effect. Unknown ones are ignored, because viewers send many.

    Args:
        model: name of the model.
        task: the infer task of the model.
        params: the client's parameters.

    Raises:
        InputError: a value has another type.
    """
    clicks: frozenset[str] = getattr(task, "inputs", frozenset())
    options = _options(task.config()) | {key: _INPUTS.get(key, Annotated[Any, AfterValidator(_marks)]) for key in clicks}
    fields = _with(InferParameters, options)
    supported = {key: value for key, value in params.items() if key in fields.model_fields}
    return _checked(fields, supported, model, limit=None)


def _options(config: Mapping[str, Any], names: Callable[[], Collection[str]] | None = None) -> dict[str, Any]:
    """Returns the types of a task's options by key, derived from the options that `/info` lists.

    The command line's name `segmenter` is accepted in place of `strategy`.

    Args:
        config: the options with their defaults or choices.
        names: returns the names that options of type text may list; None if any text is allowed.
    """
    found = {key: _option(key, value, names) for key, value in config.items()}
    return found | {"segmenter": found["strategy"]} if "strategy" in found else found


def _option(key: str, default: Any, names: Callable[[], Collection[str]] | None) -> Any:
    if key in _RANGES:
        return _RANGES[key]
    if isinstance(default, bool):
        return bool
    if isinstance(default, (list, tuple)):  # the choices
        return _one_of(lambda: default, key)
    if key == "organs":
        return Annotated[Any, AfterValidator(_organs)]
    if names is not None:
        return Annotated[Any, AfterValidator(lambda value: _listed(value, names(), key))]
    return Annotated[Text, BeforeValidator(choices.first)]


def _one_of(known: Callable[[], Iterable[str]], what: str) -> Any:
    return Annotated[Any, AfterValidator(lambda value: choices.one_of(value, list(known()), what))]


def _tags(app: Any) -> list[str]:
    """Returns the tags that this server's label maps may have at present."""
    return sorted({FINAL, *app._infers, *app.datastore().status()["label_tags"]})


def _organs(value: Any) -> str:
    return ",".join(organ_table()[k].name for k in replies.organs({"organs": _texts(value)}))


def _listed(value: Any, known: Collection[str], what: str) -> str:
    return ",".join(choices.each_of(replies.names({what: _texts(value)}, what), known, what))


def _texts(value: Any) -> Any:
    """Returns a text or a list of texts unchanged. Refuses other values before they are converted to text."""
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in listed):
        raise ValueError("give names, as a list or separated by commas")
    return value


def _marks(value: Any) -> Any:
    if not isinstance(value, (str, list)) or len(value) > _MAX_MARKS:
        raise ValueError(f"is not a list of voxel indices [x, y, z], or has more than {_MAX_MARKS} items")
    return value


def _with(base: type[BaseModel], options: Mapping[str, Any]) -> type[BaseModel]:
    fields: dict[str, Any] = {key: (kind | None if isinstance(kind, type) else kind, None) for key, kind in options.items()}
    return create_model("Parameters", __base__=base, **fields)


def _checked(model: type[BaseModel], params: Mapping[str, Any], subject: str, limit: int | None = _MAX_BYTES) -> dict[str, Any]:
    unknown = [key for key in params if key not in model.model_fields]
    if unknown:
        raise InputError(subject, f"has no parameter {unknown[0][:60]!a}.", _allowed(model))
    given = {key: value for key, value in params.items() if value is not None and value != "" and value != []}
    try:
        checked = model.model_validate(given)
    except ValidationError as error:
        raise InputError(subject, f"has invalid parameters: {problems_of(error)[:_MAX_MESSAGE]}.", _allowed(model)) from error
    result = checked.model_dump(exclude_unset=True)
    if limit is not None and len(json.dumps(result)) > limit:
        raise InputError(subject, f"has parameters of more than {limit} bytes.", "Name fewer studies per request.")
    return result


def _allowed(model: type[BaseModel]) -> str:
    used = sorted(key for key, field in model.model_fields.items() if not field.exclude)
    dropped = sorted(key for key, field in model.model_fields.items() if field.exclude)
    return f"Allowed: {', '.join(used)}. Accepted without effect: {', '.join(dropped)}."
