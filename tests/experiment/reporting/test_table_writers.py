"""Tables as Markdown, LaTeX and HTML: layout, escapes and marks."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from made_results import results
from medsam2_atlas.experiment.reporting.html_table import html_table
from medsam2_atlas.experiment.reporting.latex import PACKAGES, latex
from medsam2_atlas.experiment.reporting.markdown import markdown
from medsam2_atlas.experiment.reporting.table import Cell, Column, Row, Table
from medsam2_atlas.experiment.reporting.table_files import accuracy_tables, write_tables

EVIL = "<script>|a_b*[x](y) \\ 5 % & # $ ^ ~ {} `c` \u202e"
TABLE = Table(
    "Dice",
    "Mean ± deviation, 3 cases.",
    "Organ",
    (Column("A", "Strategies"), Column("A, published", "Strategies", published=True), Column("D", "Strategies"), Column("own")),
    (
        Row("Liver", (Cell("0.9", 0.9), Cell("0.8", 0.8), Cell("0.95", 0.95, best=True), Cell())),
        Row("Mean", (Cell("−1.0", -1.0), Cell(), Cell("2", 2), Cell("text")), summary=True),
    ),
    ("A note.",),
)
NAUGHTY = Table(EVIL, EVIL, EVIL, (Column(EVIL, EVIL),), (Row(EVIL, (Cell(EVIL),)), Row("[1]", (Cell("--"),))), (EVIL,))


class Outline(HTMLParser):
    """Collects start tags with their attributes, and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_markdown_has_a_line_per_row_with_bold_best_and_italic_published_values() -> None:
    assert markdown(TABLE) == (
        "## Dice\n\nMean ± deviation, 3 cases.\n\n"
        "| Organ | A | *A, published* | D | own |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| Liver | 0.9 | *0.8* | **0.95** |  |\n"
        "| *Mean* | −1.0 |  | 2 | text |\n"
        "\nA note.\n"
    )


def test_no_character_of_a_text_has_a_meaning_in_markdown() -> None:
    lines = markdown(NAUGHTY).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert all(row.replace("\\|", "").count("|") == 3 for row in rows)
    assert "\\<script\\>\\|a\\_b\\*\\[x\\](y)" in rows[2]
    assert "\u202e" not in markdown(NAUGHTY)


def test_latex_has_groups_with_rules_and_the_rules_of_booktabs() -> None:
    text = latex(TABLE)
    lines = [line.strip() for line in text.splitlines()]
    assert r" & \multicolumn{3}{c}{Strategies} & \multicolumn{1}{c}{} \\".strip() in lines
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-5}" in lines
    assert r"Liver & 0.9 & \textit{0.8} & \textbf{0.95} &  \\" in lines
    assert r"Mean & $-$1.0 &  & 2 & text \\" in lines
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    assert r"\begin{tabular}{lrrrr}" in lines
    assert text.count(r"\begin") == text.count(r"\end") == 2


def test_no_character_of_a_text_has_a_meaning_in_latex() -> None:
    row = next(line for line in latex(NAUGHTY).splitlines() if r"\textless{}script" in line and "caption" not in line)
    assert r"a\_b*{[}x](y) \textbackslash{} 5 \% \& \# \$ \textasciicircum{} \textasciitilde{} \{\}" in row
    assert "-{}-" in latex(NAUGHTY)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_as_a_fragment(tmp_path: Path) -> None:
    (tmp_path / "tables.tex").write_text(PACKAGES + latex(TABLE) + latex(NAUGHTY), encoding="utf-8")
    head = r"\documentclass{article}\usepackage{booktabs}\usepackage{graphicx}"
    (tmp_path / "doc.tex").write_text(head + r"\begin{document}\input{tables.tex}\end{document}", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "doc.tex"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert found.returncode == 0, found.stdout.decode(errors="replace")[-2000:]


def test_html_headers_have_a_scope_and_numbers_a_value_to_sort_by() -> None:
    outline = Outline(html_table(TABLE))
    assert ("table", {"class": "sortable"}) in outline.tags
    headers = [attributes for tag, attributes in outline.tags if tag == "th"]
    assert all("scope" in attributes for attributes in headers)
    assert headers[0] == {"scope": "col", "rowspan": "2"}
    assert headers[1] == {"scope": "colgroup", "colspan": "3"}
    assert [a.get("class") for a in headers if a["scope"] == "col"][1:] == [None, "published", None, None]
    data = [attributes for tag, attributes in outline.tags if tag == "td"]
    assert data[:4] == [
        {"data-value": "0.9"},
        {"class": "published", "data-value": "0.8"},
        {"class": "best", "data-value": "0.95"},
        {},
    ]
    assert data[4] == {"data-value": "-1.0"}


def test_html_summaries_are_in_the_foot_so_that_sorting_leaves_them_in_place() -> None:
    body, foot = html_table(TABLE).split("<tfoot>")
    assert "Liver" in body
    assert "Mean</th>" in foot
    assert "Mean</th>" not in body


def test_html_escapes_all_texts() -> None:
    page = html_table(NAUGHTY)
    outline = Outline(page)
    assert {tag for tag, _ in outline.tags} == {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
    assert "<script" not in page
    assert "\u202e" not in page
    assert "style=" not in page


def test_a_table_without_groups_has_one_row_of_headers() -> None:
    plain = Table("t", "c", "Pair", (Column("p"),), (Row("a", (Cell("1", 1),)),))
    assert html_table(plain).count("<tr>") == 2
    assert "cmidrule" not in latex(plain)
    assert "midrule" in latex(plain)


def test_the_files_contain_every_table_of_accuracy_and_no_costs(tmp_path: Path) -> None:
    tables = accuracy_tables(results(("unet_3d", "D"), cases=6))
    write_tables(tables, tmp_path)
    page, source = ((tmp_path / name).read_text(encoding="utf-8") for name in ("tables.md", "tables.tex"))
    assert page.count("\n## ") == source.count(r"\begin{table}") == len(tables) == 10
    assert source.startswith("% Needs")
    for text in (page, source):
        assert not any(word in text for word in ("seconds", "MiB", "Wh", "CO", str(tmp_path)))


def test_tables_without_a_column_or_row_are_omitted() -> None:
    found = results(("unet_3d",), cases=2)
    trained = tuple(record.model_copy(update={"prompted": False}) for record in found.records)
    titles = [table.title for table in accuracy_tables(type(found)(trained, found.organs))]
    assert not any("prompts" in title or "paired" in title for title in titles)
    assert len(titles) == 6
