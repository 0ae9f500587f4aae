"""``glasspool ps``: the pools that run, or every process and thread of one, from any terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from glasspool.cli import codes, layout, parsing

if TYPE_CHECKING:
    from glasspool.observe.running import Listing, Look
    from glasspool.snapshot import Snapshot

DESCRIPTION = """\
Without PID: list the Python programs that run a pool, of glasspool, of the
standard library, loky, multiprocess or billiard. With the PID of a program (or
of one of its workers): every process and thread of its pools, with role, state
and current task. The program needs no change and does not notice; it is read
while it hangs, too. What could not be read is said.
"""

EXAMPLES = """\
examples:
  glasspool ps                   the programs that run a pool
  glasspool ps 4242              the roster of one program
  glasspool ps 4242 --stacks     with the Python stack of each thread
  glasspool ps 4242 --quick      at once, from the operating system alone
  glasspool ps 4242 --watch 0.5  again every half second, until Ctrl-C
  glasspool ps --json            for programs
"""

_WATCH_S = 2.0
_COMMAND_MOST = 200


def main(arguments: Sequence[str]) -> int:
    """Print the list or one roster, once or again and again."""
    options = make_parser().parse_args(list(arguments))
    options.native = False
    if options.pid is None:
        return repeated(_shows_list(options), options)
    return repeated(shows_one(options), options)


def repeated(show: Callable[[], int], options: argparse.Namespace) -> int:
    """Show something once, or as often as the options say; end quietly where nobody reads on."""
    try:
        return show() if options.watch is None else _watch(show, options.watch)
    except BrokenPipeError:
        # The reader of our output has left, as "head" does. The interpreter's last flush must not
        # meet the same error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.FINE
    except KeyboardInterrupt:
        return 130  # as shells count what Ctrl-C has ended


def shows_one(options: argparse.Namespace, *, flow: bool = False) -> Callable[[], int]:
    """Return what prints the picture of one program and returns the exit code.

    Args:
        options: ``pid``, ``json``, ``redact``, ``quick``, ``stacks`` (whether to print them), ``native``
            (whether to add calls of C code) and ``watch``.
        flow: Whether to show how work goes through each pool, too.
    """
    from glasspool.observe import running

    said: set[str] = set()

    def show() -> int:
        look = running.look(
            options.pid, stacks=options.stacks, quick=options.quick, redact=options.redact
        )
        if options.native:
            look = _with_c_calls(look)
        if look.snapshot is not None:
            _clear(options)
            if options.json:
                _print_picture_as_json(look)
            else:
                _print_picture(look.snapshot, options.stacks, flow)
        if look.problem is None:
            return codes.FINE
        if look.text in said:
            return codes.of(look.problem)
        said.add(look.text or "")
        return codes.complain(look.problem, look.text or codes.PROBLEMS[look.problem][1])

    return show


def _with_c_calls(look: Look) -> Look:
    from dataclasses import replace

    from glasspool.observe import c_calls

    picture = look.snapshot
    return look if picture is None else replace(look, snapshot=c_calls.added(picture))


def _print_picture(picture: Snapshot, stacks: bool, flow: bool) -> None:
    from glasspool.observe import running
    from glasspool.views import table

    table.print_snapshot(picture if stacks else running.without_stacks(picture), flow=flow)
    sys.stdout.flush()


def _print_picture_as_json(look: Look) -> None:
    told = {} if look.snapshot is None else look.snapshot.to_dict()
    if look.problem is not None:
        code = codes.of(look.problem)
        told["problem"] = {"name": look.problem, "code": code, "text": look.text}
    print(json.dumps(told, indent=1), flush=True)


def _shows_list(options: argparse.Namespace) -> Callable[[], int]:
    from glasspool.observe import running

    def show() -> int:
        listings = running.pools(others=True, everyone=options.all, quick=options.quick)
        _clear(options)
        if options.json:
            _print_list_as_json(listings)
        else:
            _print_list(listings)
        return codes.FINE

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
            if code == codes.of("gone"):
                # A program that was seen and has ended is the good end of watching it.
                return codes.FINE if seen else code
            seen = True
            # Nobody sets it: the wait ends with the time or with Ctrl-C.
            never.wait(every_s)
            if not sys.stdout.isatty():
                print()
    except KeyboardInterrupt:
        return codes.FINE


def _print_list_as_json(listings: Sequence[Listing]) -> None:
    from glasspool.snapshot import SCHEMA, as_plain

    fine = [as_plain(item) for item in listings if item.problem is None]
    skipped = [{"path": item.path, "problem": item.problem} for item in listings if item.problem]
    print(json.dumps({"schema": SCHEMA, "pools": fine, "skipped": skipped}, indent=1), flush=True)


_HEADINGS = ("PID", "NAME", "KIND", "WORKERS", "BUSY", "IDLE", "DONE", "UP", "MADE AT", "COMMAND")
_NUMBERS = ("PID", "WORKERS", "BUSY", "IDLE", "DONE", "UP")
_MODULES = ("concurrent.futures.", "multiprocessing.pool.")


def _print_list(listings: Sequence[Listing]) -> None:
    fine = [item for item in listings if item.problem is None]
    rows = [_HEADINGS, *map(_row, fine)]
    # A column in which nobody has a word is left out.
    kept = [at for at in range(len(_HEADINGS)) if any(row[at] not in ("-", "") for row in rows[1:])]
    if fine:
        right = [at for at, column in enumerate(kept) if _HEADINGS[column] in _NUMBERS]
        for line in layout.aligned([[row[at] for at in kept] for row in rows], right=right):
            print(_cut(line))
        if any(item.evidence is not None and item.evidence.source == "inferred" for item in fine):
            print("?: inferred from the process tree and what the kernel says, not read")
    else:
        print("no pool is running")
    for item in listings:
        if item.problem is not None:
            print(_safe(f"skipped {item.path}: {item.problem}"))
    sys.stdout.flush()


def _row(item: Listing) -> tuple[str, ...]:
    up = "-" if item.started_at is None else _age(time.time() - item.started_at)
    doubt = "?" if item.evidence is not None and item.evidence.source == "inferred" else ""
    kind = item.kind
    for module in _MODULES:
        kind = kind.removeprefix(module)
    counts = (item.size, item.busy, item.idle, item.done)
    # What a program of another library has done so far is nowhere to be read.
    return (
        str(item.pid),
        _safe(item.name.removeprefix(f"process {item.pid}").strip()) or "-",
        _safe(kind) + doubt,
        *("-" if count is None else str(count) for count in counts),
        up,
        "-" if item.made_at is None else _safe(layout.place(item.made_at)),
        _briefly(item.command) or "-",
    )


def _briefly(command: str | None) -> str:
    """Shorten a command: the interpreter by its own name, on one line."""
    interpreter, *rest = (command or "").split() or [""]
    words = _safe(" ".join([os.path.basename(interpreter), *rest]))
    return words if len(words) <= _COMMAND_MOST else words[: _COMMAND_MOST - 1] + "…"


def _safe(text: str) -> str:
    # As table.harmless, which would load the whole table.
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _cut(line: str) -> str:
    """Cut a line at the width of the terminal; off a terminal lines stay whole."""
    columns = os.environ.get("COLUMNS", "")
    if not sys.stdout.isatty() and not columns.isdecimal():
        return line
    width = max(20, layout.terminal_columns())
    return line if len(line) <= width else line[: width - 1] + "…"


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    parser = parsing.parser("ps", DESCRIPTION, f"{EXAMPLES}\n{codes.text()}")
    parsing.add_program(parser, optional=True)
    parser.add_argument(
        "--stacks", action="store_true", help="with the Python stack of every thread"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="read no stacks: roles are inferred from what the operating system says",
    )
    parser.add_argument("--all", action="store_true", help="list the programs of all users")
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands have that look at one program."""
    parser.add_argument("--redact", action="store_true", help="leave out the arguments of tasks")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=parsing.seconds(0.05, 86400),
        const=_WATCH_S,
        help="print again every SECONDS (default 2) until Ctrl-C",
    )
