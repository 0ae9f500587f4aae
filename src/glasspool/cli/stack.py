"""``glasspool stack PID``: the roster of a program's pools with the stack of every thread."""

from __future__ import annotations

from collections.abc import Sequence

from glasspool.cli import ps


def main(arguments: Sequence[str]) -> int:
    """Print the roster with stacks, once or again and again."""
    return ps.main(arguments, stacks=True)
