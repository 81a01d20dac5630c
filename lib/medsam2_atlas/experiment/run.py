"""Runs an experiment: every variant on every case, in one process or several; finished records are kept.

A record is written last and in one step, after its label map. A run that is killed at any moment therefore loses only the
variant that it was computing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, problem_of
from medsam2_atlas.base.mapping import KilledError, Map
from medsam2_atlas.base.overlay import begin_settings, choose_settings, settings_are_of
from medsam2_atlas.base.progress import Progress, doing, noting, reporting, silent
from medsam2_atlas.experiment.cases import EvaluationCase
from medsam2_atlas.experiment.record import Record
from medsam2_atlas.experiment.setting import Setting
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.experiment.workers import worker_processes
from medsam2_atlas.studies.models import Models

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A case, and the variants that have no valid record of it."""

    case: EvaluationCase
    variants: tuple[Variant, ...]


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        done: number of records that were made.
        problems: why a variant has no record of a case, by `CASE, VARIANT`.
    """

    done: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, other: Outcome) -> None:
        """Adds the outcome of a task."""
        self.done += other.done
        self.problems |= other.problems


class Session:
    """The models of a process, loaded once per number of references."""

    def __init__(self, setting: Setting) -> None:
        """Keeps the setting; loads nothing.

        Args:
            setting: the experiment.
        """
        self.setting = setting
        self.unusable: set[Variant] = set()
        """The variants that lack something, on all cases."""
        self._models: dict[int | None, Models] = {}

    def models(self, variant: Variant) -> Models:
        """Returns the models of a variant."""
        if variant.references not in self._models:
            self._models[variant.references] = self.setting.models(variant.references)
        return self._models[variant.references]

    def valid_record(self, case: EvaluationCase, variant: Variant) -> Record | None:
        """Returns the valid stored record of a variant on a case.

        Returns None if there is none, or if something that it depends on has changed.

        Raises:
            MedSAM2AtlasError: if the segmenter lacks something, or an option cannot be used.
        """
        from medsam2_atlas.experiment.measure import is_valid

        file = self.setting.record_file(case.name, variant)
        if not file.is_file() or not self.setting.label_file(case.name, variant).is_file():
            return None
        try:
            record = Record.read(file)
        except InputError as error:
            log.warning("%s", error)
            return None
        return record if is_valid(record, case, variant, self.setting, self.models(variant)) else None

    def check(self, variant: Variant, cases: Sequence[EvaluationCase]) -> None:
        """Loads what a variant needs, and checks its options.

        Args:
            variant: the variant.
            cases: the cases; the first one is used to check the options.

        Raises:
            MedSAM2AtlasError: if the segmenter lacks something, or an option cannot be used.
        """
        from medsam2_atlas.experiment.measure import keys

        self.models(variant).segmenter(variant.segmenter).check()
        for case in cases[:1]:
            next(keys(case, variant, self.setting, self.models(variant)))

    def run(self, task: Task, strict: bool, after: Callable[[], None] = lambda: None) -> Outcome:
        """Runs the variants of a task. A variant that fails is a problem of the outcome, and the others still run.

        Args:
            task: case and variants.
            strict: raise the first error instead.
            after: called after each variant.
        """
        outcome = Outcome()
        for variant in task.variants:
            what = f"{task.case.name}, {variant.name}"
            doing(what)
            try:
                with reporting(noting(what)):
                    self._run_one(task.case, variant)
                outcome.done += 1
            except Exception as error:
                if strict and isinstance(error, MedSAM2AtlasError):
                    raise
                if strict:
                    raise InputError(
                        task.case.image, f"cannot be evaluated by {variant.name}: {problem_of(error)}.", "Leave it out."
                    ) from error
                outcome.problems[f"{task.case.name}, {variant.name}"] = problem_of(error)
                log.log(
                    logging.INFO if isinstance(error, MedSAM2AtlasError) else logging.ERROR,
                    "%s cannot be evaluated by %s",
                    task.case.name,
                    variant.name,
                    exc_info=True,
                )
            after()
        return outcome

    def _run_one(self, case: EvaluationCase, variant: Variant) -> None:
        from medsam2_atlas.experiment.measure import measure
        from medsam2_atlas.imaging.volume import write_volume

        found = measure(case, variant, self.setting, self.models(variant))
        record, label = self.setting.record_file(case.name, variant), self.setting.label_file(case.name, variant)
        for file in (record, label):
            file.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)  # it belongs to the label map that is replaced next
        write_volume(found.labels, label)
        found.record.write(record)


def open_tasks(cases: Sequence[EvaluationCase], session: Session, problems: dict[str, str] | None) -> list[Task]:
    """Returns the tasks without a valid record. Variants that cannot run have no task; `session.unusable` receives them.

    Args:
        cases: the cases.
        session: the models of this process.
        problems: receives the reason for each variant that cannot run; None: it raises an error.

    Raises:
        InputError: if `problems` is None and a variant cannot run.
    """
    variants = []
    for variant in session.setting.variants:
        try:
            session.check(variant, cases)
            variants.append(variant)
        except Exception as error:
            if problems is None:
                raise InputError(variant.name, f"cannot run: {problem_of(error)}", "Leave it out, or correct this.") from error
            log.info("%s cannot run", variant.name, exc_info=True)
            session.unusable.add(variant)
            problems[f"{variant.name} (all cases)"] = problem_of(error)
    tasks = []
    for case in cases:
        missing = tuple(variant for variant in variants if not _is_done(case, variant, session))
        if missing:
            tasks.append(Task(case, missing))
    return tasks


def _is_done(case: EvaluationCase, variant: Variant, session: Session) -> bool:
    """Returns whether a variant has a valid record of a case. If that cannot be found out, the run reports the reason."""
    try:
        return session.valid_record(case, variant) is not None
    except (MedSAM2AtlasError, OSError):
        return False


def run_tasks(
    tasks: Sequence[Task],
    session: Session,
    jobs: int = 1,
    *,
    strict: bool = False,
    progress: Progress = silent,
    mapped: Map | None = None,
) -> Outcome:
    """Runs tasks, in this process or in several worker processes.

    If a worker process dies, for example because memory runs out, the tasks that were running are repeated one by one, so that
    only the task that kills its process is lost.

    Args:
        tasks: what to run.
        session: the models of this process; other processes load their own.
        jobs: number of processes; 1 runs everything in this process.
        strict: raise the first error.
        progress: called with the fraction completed.
        mapped: runs the tasks on a cluster; `jobs` is then ignored.

    Raises:
        MedSAM2AtlasError: if `strict` and a task fails.
    """
    outcome, total = Outcome(), sum(len(task.variants) for task in tasks)
    if tasks:
        progress("evaluation", 0.0)  # the remaining time is estimated from here on
    if jobs == 1 and mapped is None:
        done = 0

        def after() -> None:
            nonlocal done
            done += 1
            progress("evaluation", done / total)

        for task in tasks:
            outcome.add(session.run(task, strict, after))
        return outcome
    done = 0
    if mapped is None:
        ends = _side_by_side(tasks, session.setting, jobs, strict)
    else:
        arguments = [(session.setting, task, strict) for task in tasks]
        ends = (_unless_killed(tasks[number], result, strict) for number, result in mapped(run_on_worker, arguments))
    for task, result in ends:
        outcome.add(result)
        done += len(task.variants)
        progress("evaluation", done / total)
    return outcome


def _side_by_side(tasks: Sequence[Task], setting: Setting, jobs: int, strict: bool) -> Iterator[tuple[Task, Outcome]]:
    """Yields each task with its outcome, in the order in which they end."""
    waiting, interrupted = deque(tasks), list[Task]()
    while waiting:  # with new processes after one has died
        with worker_processes(jobs, _start_worker, setting) as processes:
            yield from _until_broken(processes, waiting, interrupted, jobs, strict)
    for task in interrupted:
        with worker_processes(1, _start_worker, setting) as processes:
            try:
                yield task, processes.submit(_run_in_worker, task, strict).result()
            except BrokenProcessPool:
                yield task, _lost(task, strict)


def _unless_killed(task: Task, result: Outcome | KilledError, strict: bool) -> tuple[Task, Outcome]:
    return task, _lost(task, strict) if isinstance(result, KilledError) else result


def _lost(task: Task, strict: bool) -> Outcome:
    """Returns the outcome of a task whose processes are killed.

    Raises:
        InputError: if `strict`.
    """
    problem = "the process that ran it was killed; the machine may have too little memory."
    if strict:
        raise InputError(task.case.image, problem, "Use fewer --jobs, workers with more memory, or leave it out.")
    return Outcome(problems={f"{task.case.name}, {v.name}": problem for v in task.variants})


def _until_broken(
    processes: ProcessPoolExecutor, waiting: deque[Task], interrupted: list[Task], jobs: int, strict: bool
) -> Iterator[tuple[Task, Outcome]]:
    """Runs waiting tasks until none is left, or until a process dies; the tasks that ran then are added to `interrupted`.

    A process gets its next task when it has finished one, so that a dead process interrupts as few tasks as possible.
    """
    running: dict[Future[Outcome], Task] = {}
    broken = False
    while running or (waiting and not broken):
        while waiting and not broken and len(running) < jobs:
            try:
                running[processes.submit(_run_in_worker, waiting[0], strict)] = waiting[0]
                waiting.popleft()
            except BrokenProcessPool:
                broken = True
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            try:
                result = future.result()
            except BrokenProcessPool:
                interrupted.append(task)
                broken = True
            else:
                yield task, result


_session: Session | None = None
"""The session of a worker process."""


def _start_worker(setting: Setting) -> None:
    """Loads the libraries of a worker process, and sets its threads and method."""
    global _session
    import SimpleITK as sitk
    import torch

    if setting.as_published:
        from medsam2_atlas.studies.as_published import use_published_method

        use_published_method()
    if setting.registration is not None:
        choose_settings("registration.yaml", {"method": setting.registration})
    torch.set_num_threads(setting.threads)
    itk = sitk.ProcessObject
    itk.SetGlobalDefaultNumberOfThreads(min(setting.threads, itk.GetGlobalDefaultNumberOfThreads()))
    _session = Session(setting)


def run_on_worker(setting: Setting, task: Task, strict: bool) -> Outcome:
    """Runs a task on a worker of a cluster, which may have run other experiments or batches before.

    Its records are on the shared disk.
    """
    if _session is None or _session.setting != setting or not settings_are_of(setting):
        begin_settings(setting)
        _start_worker(setting)
    return _run_in_worker(task, strict)


def _run_in_worker(task: Task, strict: bool) -> Outcome:
    """Runs a task in a worker process."""
    assert _session is not None, "the worker's initializer ran"
    return _session.run(task, strict)
