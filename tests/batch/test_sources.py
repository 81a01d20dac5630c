"""Sources of batches: folders, tables and queries of a PACS, none of which is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.fake_pacs import fake_pacs, listed
from batch_cases import write_cts
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.batch.config import BatchConfig
from medsam2_atlas.batch.sources import find_items, split_url
from series_files import upright, write_series


def ids(source: Path | str, out: Path, **options: bool) -> list[str]:
    return [item.id for item in find_items(str(source), out, **options).items]


def test_images_and_series_below_a_folder_are_found(tmp_path: Path) -> None:
    import numpy as np

    cts = write_cts(tmp_path / "cts", 2)
    write_cts(cts / "ward" / "a", 1)
    write_cts(cts / ".hidden", 1)
    write_cts(cts / "labels" / "final", 1)
    (cts / "ward" / "x.seg.nrrd").write_text("")
    (cts / "notes.txt").write_text("")
    write_series(cts / "series", upright(np.zeros((3, 8, 8), np.int16)))
    assert ids(cts, tmp_path / "out") == [
        "case-00000.nii.gz",
        "case-00001.nii.gz",
        "series",
        "ward/a/case-00000.nii.gz",
    ]


def test_the_outputs_of_a_batch_are_no_inputs(tmp_path: Path) -> None:
    cts = write_cts(tmp_path / "cts", 1)
    write_cts(cts / "out" / "labels", 2)
    assert ids(cts, cts / "out") == ["case-00000.nii.gz"]


def test_the_outputs_of_other_batches_and_of_annotators_are_no_inputs(tmp_path: Path) -> None:
    cts = write_cts(tmp_path / "cts", 1)
    for folder in ("o1/.batch", "ward/o2/.batch", "ward/studies/.medsam2_atlas"):
        (cts / folder).mkdir(parents=True)
    for folder in ("o1/labels", "ward/o2/labels", "ward/studies/labels/final"):
        write_cts(cts / folder, 1)
    assert ids(cts, cts / "o3") == ["case-00000.nii.gz"]
    (cts / ".batch").mkdir()
    write_cts(cts / "segmentations", 1)
    assert ids(cts, cts) == ["case-00000.nii.gz"]


@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_a_series_whose_slices_are_links_out_of_the_folder_is_left_out(tmp_path: Path, suffix: str) -> None:
    import numpy as np

    cts = write_cts(tmp_path / "cts", 1)
    (cts / "series").mkdir()
    for file in write_series(tmp_path / "elsewhere", upright(np.zeros((3, 8, 8), np.int16))):
        (cts / "series" / f"{file.stem}{suffix}").symlink_to(file)
    found = find_items(str(cts), tmp_path / "out")
    assert [item.id for item in found.items] == ["case-00000.nii.gz"]
    assert "--follow-links" in found.left_out["series"]
    assert ids(cts, tmp_path / "out", follow_links=True) == ["case-00000.nii.gz", "series"]


def test_a_link_that_leads_out_of_the_folder_is_left_out(tmp_path: Path) -> None:
    elsewhere = write_cts(tmp_path / "elsewhere", 1)
    cts = write_cts(tmp_path / "cts", 1)
    (cts / "link.nii.gz").symlink_to(elsewhere / "case-00000.nii.gz")
    (cts / "inside.nii.gz").symlink_to(cts / "case-00000.nii.gz")
    (cts / "folder").symlink_to(elsewhere)
    (cts / "loop").symlink_to(cts)
    found = find_items(str(cts), tmp_path / "out")
    assert [item.id for item in found.items] == ["case-00000.nii.gz", "inside.nii.gz"]
    assert {*found.left_out} == {"link.nii.gz", "folder", "loop"}
    assert "--follow-links" in found.left_out["link.nii.gz"]
    assert "link.nii.gz" in ids(cts, tmp_path / "out", follow_links=True)


def test_a_table_names_files_relative_to_itself(tmp_path: Path) -> None:
    cts = write_cts(tmp_path / "cts", 2)
    table = tmp_path / "cts.csv"
    table.write_text(f"name,image\nfirst,cts/case-00000.nii.gz\n,{cts}/case-00001.nii.gz\n,gone.nii.gz\n,\n")
    found = find_items(str(table), tmp_path / "out")
    assert [(item.wished, item.kind) for item in found.items] == [("first", "file"), ("", "file")]
    assert "line 4" in found.left_out["gone.nii.gz"]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffImage;Name\r\n{0};first\r\n".encode(),
        b"name\timage\nfirst\t{0}\n",
        b'"image","name"\n"{0}","first"\n"{0}","first"\n',
        b"image,name,ward\n{0},first,3,too,many\n\n ,x\n",
    ],
)
def test_tables_are_read_as_spreadsheets_save_them(tmp_path: Path, content: bytes) -> None:
    write_cts(tmp_path / "cts", 1)
    table = tmp_path / "t.CSV"
    table.write_bytes(content.replace(b"{0}", b"cts/case-00000.nii.gz"))
    found = find_items(str(table), tmp_path / "out")
    assert [(item.id, item.wished) for item in found.items] == [("cts/case-00000.nii.gz", "first")] and not found.left_out


def test_a_ct_that_a_table_names_twice_is_segmented_once(tmp_path: Path) -> None:
    cts = write_cts(tmp_path / "cts", 1)
    table = tmp_path / "t.csv"
    paths = ("cts/case-00000.nii.gz", "./cts/../cts/case-00000.nii.gz", cts / "case-00000.nii.gz")
    table.write_text("image,name\n" + "".join(f"{path},{name}\n" for path, name in zip(paths, "aab", strict=True)))
    found = find_items(str(table), tmp_path / "out")
    assert [(item.id, item.wished) for item in found.items] == [("cts/case-00000.nii.gz", "a")]
    assert [*found.left_out] == ["line 4"] and "is the CT of line 2" in found.left_out["line 4"]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_in_another_encoding_is_refused_with_the_remedy(tmp_path: Path, encoding: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes("image\nM\u00fcller.nii.gz\n".encode(encoding))
    with pytest.raises(InputError, match="is not a table") as error:
        find_items(str(table), tmp_path / "out")
    assert "UTF-8" in error.value.remedy


def test_the_results_of_a_batch_are_no_source(tmp_path: Path) -> None:
    (tmp_path / "out" / ".batch").mkdir(parents=True)
    write_cts(tmp_path / "out" / "labels", 1)
    with pytest.raises(InputError, match="results of a batch"):
        find_items(str(tmp_path / "out" / "labels"), tmp_path / "other")


def test_series_of_other_kinds_are_left_out_although_a_pacs_ignores_the_filter(tmp_path: Path) -> None:
    with fake_pacs() as pacs:
        pacs.series = [listed("1.2.1"), listed("1.2.2")]
        pacs.series[1]["00080060"]["Value"] = ["SEG"]
        assert [item.series for item in find_items(pacs.url, tmp_path).items] == ["1.2.1"]
        assert [item.series for item in find_items(f"{pacs.url}?Modality=SEG", tmp_path).items] == ["1.2.2"]


def test_a_pacs_that_refuses_a_filter_is_named(tmp_path: Path) -> None:
    with fake_pacs() as pacs:
        pacs.list_status = 400
        with pytest.raises(MedSAM2AtlasError, match="answers 400"):
            find_items(f"{pacs.url}?StudyDate=yesterday", tmp_path)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"image\n\xff\xfe\n", b'image\n"unclosed\n', b"image\na\0b\n"])
def test_a_damaged_table_gives_an_error_or_left_out_rows_and_no_item(tmp_path: Path, content: bytes) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    try:
        found = find_items(str(table), tmp_path / "out")
    except InputError as error:
        assert error.remedy
    else:
        assert not found.items and found.left_out


def test_a_pacs_is_asked_page_by_page_and_its_answers_are_checked(tmp_path: Path) -> None:
    with fake_pacs() as pacs:
        pacs.series = [listed("1.2.2"), listed("../../x"), listed("1.2.1"), listed("1.2.1"), 7, {"0020000E": {"Value": [None]}}]
        found = find_items(f"{pacs.url}?StudyDate=20240101", tmp_path)
    assert [item.series for item in found.items] == ["1.2.1", "1.2.2"]
    assert len(found.left_out) == 3
    assert "StudyDate=20240101" in pacs.asked[0] and "Modality=CT" in pacs.asked[0]


def test_a_pacs_that_sends_few_series_at_a_time_is_asked_until_it_has_no_more(tmp_path: Path) -> None:
    with fake_pacs() as pacs:
        pacs.page = 2
        pacs.series = [listed("../x"), listed("../y"), *(listed(f"1.2.{number}") for number in range(5))]
        found = find_items(pacs.url, tmp_path)
    assert [item.series for item in found.items] == [f"1.2.{number}" for number in range(5)]
    assert len(found.left_out) == 2


def test_a_page_with_only_series_of_other_kinds_does_not_hide_the_cts_of_later_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_pacs() as pacs:
        pacs.page = 1
        pacs.series = [listed(f"1.2.{number}") for number in range(4)]
        for number in (1, 2):
            pacs.series[number]["00080060"]["Value"] = ["SEG"]
        assert [item.series for item in find_items(pacs.url, tmp_path).items] == ["1.2.0", "1.2.3"]
        monkeypatch.setattr("medsam2_atlas.batch.sources.batch_config", lambda: BatchConfig(max_items=3))
        with pytest.raises(InputError, match="lists more than 3 series"):  # some of them might not be found
            find_items(pacs.url, tmp_path)


@pytest.mark.parametrize("url", ["http://user:secret@pacs/x", "https://", "http://[::1/x"])
def test_a_url_with_a_password_or_without_a_host_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError) as error:
        split_url(url)
    assert "secret" not in str(error.value)


def test_something_else_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InputError, match="is not a source"):
        find_items(str(tmp_path / "x.txt"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no CT"):
        find_items(str(tmp_path / "empty"), tmp_path / "out")


def test_folders_that_are_too_deep_are_reported(tmp_path: Path) -> None:
    cts = write_cts(tmp_path / "cts", 1)
    deep = cts.joinpath(*"abcdefghijklmnopq")
    write_cts(deep.parent, 1)
    write_cts(deep, 1)
    found = find_items(str(cts), tmp_path / "out")
    assert [item.id for item in found.items] == ["case-00000.nii.gz", "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/case-00000.nii.gz"]
    assert [*found.left_out] == ["a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q"] and "16 levels" in str(found.left_out)
