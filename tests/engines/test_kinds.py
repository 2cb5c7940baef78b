"""The guide shows what is known of each server, as it is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.kinds import SERVERS, ServerKind

GUIDE = (Path(__file__).parents[2] / "docs" / "guide" / "engines.md").read_text().splitlines()


@pytest.mark.parametrize("known", SERVERS.values(), ids=SERVERS)
def test_a_servers_row_and_its_quirks_stand_in_the_guide(known: ServerKind) -> None:
    names = (known.load.running, known.load.waiting, known.load.kv_usage) if known.load else ()
    load = ", ".join(f"`{name}`" for name in names if name) or "-"
    tokenize = "yes" if known.tokenize else "-"
    cells = (known.title, f"`{known.kind}`", known.tested or "-", load, known.full)
    row = f"| {' | '.join(cells)} | {known.usage} | {known.unknown_fields} | {tokenize} |"
    assert row in GUIDE
    for quirk in known.quirks:
        assert f"- {known.title}: {quirk}." in GUIDE
