"""The pages as tests see them: their text, code blocks, tables, headings and links."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """All but fenced blocks."""
        return _FENCED.sub("", self.text)

    def blocks(self, *languages: str) -> list[str]:
        return [body for language, body in _FENCED.findall(self.text) if language in languages]

    def anchors(self) -> set[str]:
        """As GitHub makes them of headings."""
        seen: Counter[str] = Counter()
        found = set()
        for heading in re.findall(r"^#+ +(.+?) *$", self.prose, re.MULTILINE):
            slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        return found

    def links(self) -> list[str]:
        """Targets inside the repository."""
        text = re.sub(r"`[^`\n]*`", "", self.prose)
        targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE)
        return [target for target in targets if not re.match(r"[a-z]+:", target)]

    def rows(self, header: str) -> Iterator[list[str]]:
        """Cells of the tables whose header line begins so."""
        for table in re.findall(rf"^\| {header}.*\n\|[-| ]+\n((?:\|.*\n)+)", self.text, re.MULTILINE):
            for line in table.splitlines():
                yield [cell.strip() for cell in line.strip().strip("|").split("|")]


def names(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


ERRORS = Page(DOCS / "reference" / "errors.md")
API = Page(DOCS / "reference" / "api.md")
INDEX = Page(DOCS / "index.md")
PAGES = [Page(path) for path in [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]]
