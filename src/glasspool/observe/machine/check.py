"""One answer of the doctor, as a frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OK, LIMITED, NO = "ok", "limited", "no"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    ``key`` names it for programs and never changes its meaning. ``mark`` is ``ok``, ``limited`` or ``no``.
    ``found`` is what was found, ``means`` what follows from it and ``remedy`` what to do where something is
    missing. ``needed`` tells whether a pool cannot work without it. ``facts`` are the figures behind it.
    """

    key: str
    topic: str
    mark: str
    found: str
    means: str = ""
    remedy: str | None = None
    needed: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


def size_words(count: float) -> str:
    """Say a number of bytes in words, for example ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return (
                f"{count:.0f} {unit}"
                if unit in ("B", "kB") or count >= 100
                else f"{count:.1f} {unit}"
            )
        count /= 1000
    return f"{count:.1f} TB"
