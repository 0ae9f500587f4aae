"""How the words for styles look: in the terminal's own sixteen colours, which fit light and dark ones.

Each difference that matters can be seen without colour, too: states are words, the cursor is reversed.
"""

from __future__ import annotations

from rich.style import Style

STYLES = {
    "busy": Style(color="green"),
    "bad": Style(color="red"),
    "waits": Style(color="yellow"),
    "faint": Style(dim=True),
    "strong": Style(bold=True),
    "key": Style(bold=True, color="cyan"),
}
