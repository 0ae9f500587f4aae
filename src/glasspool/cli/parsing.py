"""What the parsers of the commands share: how help is laid out, and words that stand for numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from glasspool.cli.layout import terminal_columns


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help as it is written; asks for its width what costs less to load than ``shutil``."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=max(20, terminal_columns() - 2))


def parser(
    command: str, description: str, epilog: str = "", usage: str | None = None
) -> argparse.ArgumentParser:
    """Return a command's parser, which has no option yet but ``--help``."""
    return argparse.ArgumentParser(
        prog=f"glasspool {command}",
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )


def add_program(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the argument that names the program to be looked at."""
    parser.add_argument(
        "pid",
        type=pid,
        metavar="PID",
        nargs="?" if optional else None,
        help="the program that made the pool, or one of its workers",
    )


def pid(word: str) -> int:
    """Read the number of a process."""
    if not word.isascii() or not word.isdecimal() or not 0 < int(word) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{word!r} is no process number")
    return int(word)


def seconds(least: float, most: float) -> Callable[[str], float]:
    """Return what reads a number of seconds within bounds."""

    def read(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            number = -1.0
        if not least <= number <= most:
            bounds = f"between {least:g} and {most:.0f}"
            raise argparse.ArgumentTypeError(f"{word!r}: give seconds {bounds}")
        return number

    return read
