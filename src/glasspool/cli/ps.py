"""``glasspool ps``: the pools that run, or every process and thread of one, from any terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from glasspool.cli import complain

if TYPE_CHECKING:
    from glasspool.observe.running import Listing

DESCRIPTION = """\
Without PID: list your running pools of glasspool. With the PID of a program (or
of one of its workers): every process and thread of its pools, with role, state
and current task. It works while the program hangs: what the program itself
cannot tell then is read from its scoreboard and the operating system, and the
output says so.
"""

EXAMPLES = """\
examples:
  glasspool ps                   your running pools
  glasspool ps 4242              the roster of one program
  glasspool ps 4242 --stacks     with the Python stack of each thread
  glasspool ps 4242 --watch 0.5  again every half second, until Ctrl-C
  glasspool ps --json            for programs

Exit code 2, with one line on stderr: no such process, not permitted, or no
Python program. A program that uses the standard library's pool is read partly.
"""

_WATCH_S = 2.0


def main(arguments: Sequence[str], *, stacks: bool = False) -> int:
    """Print the list or one roster, once or again and again."""
    options = _parser(stacks).parse_args(list(arguments))
    show = _shows_list(options) if options.pid is None else _shows_one(options, stacks)
    try:
        if options.watch is None:
            return show()
        return _watch(show, options.watch)
    except BrokenPipeError:
        # The reader of our output has left, as "head" does. The interpreter's last flush must not
        # meet the same error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _shows_list(options: argparse.Namespace) -> Callable[[], int]:
    from glasspool.observe import running

    def show() -> int:
        listings = running.pools()
        _clear(options)
        if options.json:
            _print_json(listings)
        else:
            _print_list(listings)
        return 0

    return show


def _shows_one(options: argparse.Namespace, stacks: bool) -> Callable[[], int]:
    from glasspool.observe import running
    from glasspool.views import table

    def show() -> int:
        try:
            picture = running.picture(options.pid, stacks=stacks or options.stacks)
        except (running.NoSuchProcess, running.NotPermitted, running.NoPool) as error:
            return complain(str(error))
        _clear(options)
        if options.json:
            print(picture.to_json(indent=1), flush=True)
        else:
            table.print_snapshot(picture)
        return 0

    return show


def _clear(options: argparse.Namespace) -> None:
    """Begin a fresh screen for the next picture of a watch; other files get one after another."""
    if options.watch is not None and sys.stdout.isatty():
        print("\033[H\033[2J", end="")


def _watch(show: Callable[[], int], every_s: float) -> int:
    from threading import Event

    never = Event()
    seen = False
    try:
        while True:
            code = show()
            if code:
                # A program that was seen and has ended is the good end of watching it.
                return 0 if seen else code
            seen = True
            # Nobody sets it: the wait ends with the time or with Ctrl-C.
            never.wait(every_s)
            if not sys.stdout.isatty():
                print()
    except KeyboardInterrupt:
        return 0


def _print_json(listings: Sequence[Listing]) -> None:
    from glasspool.snapshot import SCHEMA, as_plain

    fine = [as_plain(item) for item in listings if item.problem is None]
    skipped = [{"path": item.path, "problem": item.problem} for item in listings if item.problem]
    print(json.dumps({"schema": SCHEMA, "pools": fine, "skipped": skipped}, indent=1), flush=True)


def _print_list(listings: Sequence[Listing]) -> None:
    from glasspool.cli.layout import aligned, place

    rows: list[tuple[str, ...]] = [
        ("NAME", "PID", "SIZE", "BUSY", "IDLE", "DONE", "UP", "MADE AT", "COMMAND")
    ]
    for item in listings:
        if item.problem is None:
            up = "-" if item.started_at is None else _age(time.time() - item.started_at)
            rows.append(
                (
                    item.name,
                    str(item.pid),
                    *(str(count) for count in (item.size, item.busy, item.idle, item.done)),
                    up,
                    place(item.made_at),
                    item.command or "-",
                )
            )
    if len(rows) > 1:
        for line in aligned(rows, right=range(1, 7)):
            print(_cut(line))
    else:
        print("no pool of glasspool is running")
    for item in listings:
        if item.problem is not None:
            print(f"skipped {item.path}: {item.problem}")
    sys.stdout.flush()


def _cut(line: str) -> str:
    """Cut a line at the width of the terminal; off a terminal lines stay whole."""
    if not sys.stdout.isatty():
        return line
    import shutil

    width = shutil.get_terminal_size().columns
    return line if len(line) <= width else line[: width - 1] + "…"


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _parser(stacks: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glasspool stack" if stacks else "glasspool ps",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "pid",
        type=_pid,
        metavar="PID",
        nargs=None if stacks else "?",
        help="the program that made the pool, or one of its workers",
    )
    if not stacks:
        parser.add_argument(
            "--stacks", action="store_true", help="with the Python stack of every thread"
        )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=_WATCH_S,
        help="print again every SECONDS (default 2) until Ctrl-C",
    )
    return parser


def _pid(word: str) -> int:
    if not word.isascii() or not word.isdecimal() or not 0 < int(word) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{word!r} is no process number")
    return int(word)


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{word!r}: give seconds between 0.05 and 86400")
    return seconds
