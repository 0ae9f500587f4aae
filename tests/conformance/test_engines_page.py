"""The page of what each engine does says what the flags and the suite say."""

from __future__ import annotations

from pathlib import Path

import engines_table

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"


def test_the_page_is_up_to_date():
    """Made anew, it is the page that is there."""
    assert PAGE.read_text() == engines_table.page(), (
        "python tests/conformance/engines_table.py > docs/engines.md"
    )
