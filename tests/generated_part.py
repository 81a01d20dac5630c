"""The generated part of a documentation page, between two comments; what stands outside of them is written by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


@dataclass(frozen=True)
class GeneratedPart:
    """The part of a page in `docs/` that a make target writes.

    Attributes:
        page: file name, such as `commands.md`.
        target: the make target, which the comments name.
    """

    page: str
    target: str

    @property
    def file(self) -> Path:
        """The page."""
        return DOCS / self.page

    @property
    def begin(self) -> str:
        """The comment before the part."""
        return f"<!-- written by `make {self.target}` -->\n"

    @property
    def end(self) -> str:
        """The comment after the part."""
        return "<!-- end of the written part -->\n"

    def replaced(self, content: str) -> str:
        """Returns the page with new content in place of its generated part."""
        before, found, rest = self.file.read_text(encoding="utf-8").partition(self.begin)
        _, ended, after = rest.partition(self.end)
        assert found and ended, f"{self.file} lacks the comments that enclose its generated part"
        return f"{before}{self.begin}\n{content.strip()}\n\n{self.end}{after}"

    def write(self, content: str) -> None:
        """Writes the page with new content."""
        self.file.write_text(self.replaced(content), encoding="utf-8")
