"""The server's log contains no study names and no forged lines, whatever any code logs."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path

import pytest

from medsam2_atlas.base.study_hash import StudyNames
from medsam2_atlas.storage import WorkFolder
from server import context, log_lines
from server.log_names import LogNames, names_in

NAMES = ("Müller^Anna", "Mueller_Hans 1950", 'O\'Brien "Pat"', "case-007", "肝臓", "x" * 120, "a.b+c")


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    (folder / "labels" / "final").mkdir(parents=True)
    for name in NAMES:
        (folder / f"{name}.nii.gz").touch()
    (folder / "labels" / "final" / "orphan-9.seg.nrrd").touch()
    (folder / "Schmidt.dcm").touch()
    return folder


@pytest.fixture
def log(studies: Path) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream, logger = io.StringIO(), logging.getLogger("medsam2_atlas.test_log_lines")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    log_lines.install(str(studies), WorkFolder.of(studies), names=False)
    yield logger, stream
    logger.removeHandler(handler)


def test_no_line_contains_a_study_name(log: tuple[logging.Logger, io.StringIO], studies: Path) -> None:
    logger, stream = log
    for name in (*NAMES, "orphan-9", "Schmidt"):
        logger.info("%s is left out", name)
        logger.info("%r is no study of this server", name[:80])
        logger.info("COMMAND:: " + json.dumps({"image": name}))
        logger.info("%s: cannot be read", studies / f"{name}.nii.gz")
        logger.info("the label of %s: %s", name, ValueError(f"{name}.part"))
        try:
            raise OSError(2, "No such file", str(studies / f"{name}.nii.gz"))
        except OSError:
            logger.exception("failed")
    text = stream.getvalue()
    # Keyed hashes and the number in the folder's name are random and may contain the digits of a name.
    rest = re.sub(r"study-[0-9a-f]{10}", "hash", text.replace(str(studies), "folder"))
    for name in (*NAMES, "orphan-9", "Schmidt", "Anna", "Hans", "Brien", "xxxx", "007"):
        assert name not in rest
        assert json.dumps(name)[1:-1] not in rest
    hashed = StudyNames(studies / ".medsam2_atlas").hashed("case-007")
    assert f"[INFO] {hashed} is left out" in text
    assert f"{studies}/{hashed}.nii.gz" in text


def test_no_line_contains_a_uid_but_other_numbers_stay(log: tuple[logging.Logger, io.StringIO], studies: Path) -> None:
    logger, stream = log
    uid = "1.2.826.0.1.3680043.8.498.7291"
    logger.info("GET /proxy/dicom/wado/studies/%s/series/2.25.329800735698586629295641978511506172918/metadata", uid)
    kept = "10.0.0.17:8042, torch 2.13.0, 0.123 s, 1.2.840.10008.1.2.4.80, 2026-11-26 10:00:00.123"
    logger.info(kept)
    first, second = stream.getvalue().splitlines()
    assert uid not in first
    assert "2.25.3298" not in first
    assert StudyNames(studies / ".medsam2_atlas").hashed(uid) in first
    assert second == f"[INFO] {kept}"


def test_words_that_contain_a_name_stay_and_longer_names_take_precedence(tmp_path: Path) -> None:
    names = StudyNames(tmp_path)
    hidden = LogNames(names, lambda: ["case", "case 12", "1234"])
    assert hidden.hide("case 12") == names.hashed("case 12")
    assert hidden.hide("showcase 127 cases") == "showcase 127 cases"
    assert hidden.hide("case_1234.nii.gz") == f"{names.hashed('case')}_{names.hashed('1234')}.nii.gz"
    assert hidden.hide("") == ""


def test_slices_named_by_numbers_do_not_hide_counts(tmp_path: Path) -> None:
    hidden = LogNames(StudyNames(tmp_path), lambda: [*map(str, range(300)), "001", "007"])
    context.begin("", b"image=7")
    line = "cuda:0: compute capability 7.5, 12 of 300 cases in 0.007 s"
    assert hidden.hide(line) == line
    context.begin("")


def test_names_in_a_request_are_hidden_even_without_such_a_study(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = log
    context.begin("", b"image=Nobody%20Known&tag=final&output=Nobody")
    thread = threading.Thread(target=copy_context().run, args=(context.mention, "Up^Load"))  # handlers run like this
    thread.start()
    thread.join()
    logger.info("Nobody Known: is no study of this server; nor is Up^Load (final)")
    context.begin("")
    logger.info("Nobody Known")
    first, second = stream.getvalue().splitlines()
    assert "Known" not in first
    assert "Load" not in first
    assert "(final)" in first
    assert second == "[INFO] Nobody Known"


def test_a_query_with_thousands_of_names_does_not_slow_down_log_lines(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    context.begin("", "&".join(f"image=Nobody{number}" for number in range(6000)).encode())
    assert context.mentioned() == {"Nobody5999"}  # handlers get this last value
    logger.info("Nobody5999: is no study")
    assert "Nobody" not in stream.getvalue()
    context.begin("")


def test_a_new_study_is_hidden_in_the_first_line_about_it(studies: Path) -> None:
    hidden = LogNames(StudyNames(studies), lambda: names_in(studies), lambda: studies.stat().st_mtime_ns)
    (studies / "New^Comer.nii.gz").touch()
    assert "Comer" not in hidden.hide("New^Comer cannot be read", urgent=True)
    (studies / "New^Comer.nii.gz").unlink()
    hidden.refresh()
    assert "Comer" not in hidden.hide("the label of New^Comer was taken away")


def test_names_stay_if_the_operator_allows_them(studies: Path) -> None:
    assert LogNames(StudyNames(studies, plain=True), lambda: names_in(studies)).hide(NAMES[0]) == NAMES[0]


def test_10000_study_names_do_not_slow_down_log_lines(tmp_path: Path) -> None:
    hidden = LogNames(StudyNames(tmp_path), lambda: [f"case-{number:05d}" for number in range(10_000)])
    began = time.perf_counter()
    for number in range(1000):
        hidden.hide(f"GET /datastore/image case-{number:05d} case-x 200 0.123 s")
    assert time.perf_counter() - began < 1.0


def test_lines_are_written_even_if_the_folder_cannot_be_listed(tmp_path: Path) -> None:
    assert LogNames(StudyNames(tmp_path), lambda: names_in(tmp_path / "none")).hide("x", urgent=True) == "x"


def test_printed_lines_of_work_processes_cannot_imitate_the_servers_lines(studies: Path) -> None:
    stream, logger = io.StringIO(), logging.getLogger("task_train")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    try:
        log_lines.install(str(studies), WorkFolder.of(studies), names=False)
        log_lines.install(str(studies), WorkFolder.of(studies), names=False)  # like a second server in the process
        logger.error("[2026-11-26 10:00:00] [ERROR] case-007")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue().startswith("task_train: [2026")
    assert stream.getvalue().count("task_train") == 1
    assert "case-007" not in stream.getvalue()


def test_queries_to_a_pacs_are_not_logged(log: tuple[logging.Logger, io.StringIO]) -> None:
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)  # it logs whole addresses, with PatientName


def test_output_of_libraries_does_not_leave_the_reader_process() -> None:
    program = "import os; from medsam2_atlas.imaging.decoding.worker import _silence; _silence(); os.write(2, b'forged')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b""
