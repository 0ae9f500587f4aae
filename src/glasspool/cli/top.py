"""``glasspool top``: watch pools in the terminal, as ``htop`` shows processes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from glasspool.cli import codes, layout, parsing

if TYPE_CHECKING:
    from glasspool.observe.watch import View, Watch

DESCRIPTION = """\
Watch a program's pools: how fast they get on, how much is left, what each worker,
thread and task does at this moment, who died of what. Without PID: all pools of
glasspool that you have running, also those that begin later. With the PID of a
program (or of one of its workers) it may be a pool of any library. The program
needs no change; at two looks a second it does not notice. Press ? for the keys.
"""

EXAMPLES = """\
examples:
  glasspool top                  your pools
  glasspool top 4242             those of one program
  glasspool top 4242 --every 2   look every 2 seconds (default: 0.5)
  glasspool top 4242 --control   with c to cancel a task, r to restart a worker
  glasspool top --plain          print it once, as for a pipe
  glasspool top 4242 --json      for programs

Without a terminal it prints once, as with --plain. NO_COLOR is honoured.
"""

_EVERY_S = 0.5
_ENDINGS = ("gone", "not-python", "no-pool")


def main(arguments: Sequence[str]) -> int:
    """Watch until the user leaves, or print once."""
    options = make_parser().parse_args(list(arguments))
    once = options.plain or options.json
    if not once and not _has_terminal():
        print("glasspool: no terminal, so this is printed once (--plain)", file=sys.stderr)
        once = True
    if not once:
        from glasspool import extras

        try:
            extras.load("textual", "top")
        except extras.MissingExtra as error:
            print(f"glasspool: top: {error}; or --plain", file=sys.stderr)
            return codes.USAGE
    from glasspool.observe.watch import Watch

    watch = Watch(options.pid, redact=options.redact, most=5000)
    try:
        return _once(watch, options) if once else _watch(watch, options)
    except BrokenPipeError:
        # The reader has left, as "head" does: the interpreter's last flush must not meet that again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.FINE
    except KeyboardInterrupt:
        return 130  # as shells count what Ctrl-C has ended
    finally:
        watch.close()


def _has_terminal() -> bool:
    if os.environ.get("TERM") in (None, "", "dumb") and os.name == "posix":
        return False
    # Textual draws on stderr.
    streams = (sys.stdin, sys.stdout, sys.__stderr__)
    return all(stream is not None and stream.isatty() for stream in streams)


def _watch(watch: Watch, options: argparse.Namespace) -> int:
    first = watch.look()
    if options.pid is not None and first.problem in _ENDINGS:
        return codes.complain(str(first.problem), first.text)
    from glasspool.observe import control
    from glasspool.views.top.app import TopApp

    by_hand = control if options.control else None
    app = TopApp(watch, every_s=options.every, control=by_hand, first=(first,))
    app.run()
    return app.return_code or codes.FINE


def _once(watch: Watch, options: argparse.Namespace) -> int:
    from threading import Event

    views = [watch.look()]
    if views[0].snapshot is not None and views[0].snapshot.pools:
        # Rates need two looks; nobody sets this event, the wait ends with the time.
        Event().wait(options.every)
        views.append(watch.look())
    last = views[-1]
    if options.json:
        print(json.dumps(_as_json(views), indent=1), flush=True)
    elif last.snapshot is not None:
        _print(views)
    if last.problem is None:
        if last.snapshot is None and not options.json:
            print(last.text or "no pool is running")
        return codes.FINE
    return codes.complain(last.problem, last.text)


def _print(views: Sequence[View]) -> None:
    from glasspool.views import table
    from glasspool.views.top import plain
    from glasspool.views.top.session import Session

    session = Session()
    for view in views:
        session.take(view)
    text = plain.text(session, layout.terminal_columns() if _told_width() else 100)
    fitted = table.fitted(text, sys.stdout)
    print(text if fitted == text else table.fitted(plain.ascii_bars(text), sys.stdout), flush=True)


def _told_width() -> bool:
    return sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()


def _as_json(views: Sequence[View]) -> dict[str, object]:
    """Return the last view, with what ended in all of them: the schema of ``ps --json``, and more."""
    from glasspool.snapshot import SCHEMA, as_plain

    last = views[-1]
    told = {"schema": SCHEMA, "pools": []} if last.snapshot is None else last.snapshot.to_dict()
    return {
        **told,
        "past": last.past,
        "problem": last.problem,
        "text": last.text,
        "paces": as_plain(last.paces),
        "records": [record._asdict() for view in views for record in view.records],
        "lost": sum(view.lost for view in views),
    }


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    parser = parsing.parser("top", DESCRIPTION, f"{EXAMPLES}\n{codes.text()}")
    parsing.add_program(parser, optional=True)
    parser.add_argument(
        "--every",
        metavar="SECONDS",
        type=parsing.seconds(0.1, 3600),
        default=_EVERY_S,
        help="look so often (default 0.5); more seldom where a look takes long",
    )
    parser.add_argument(
        "--control", action="store_true", help="allow to cancel tasks and to restart workers"
    )
    parser.add_argument("--plain", action="store_true", help="print once, without a screen")
    parser.add_argument("--redact", action="store_true", help="leave out the arguments of tasks")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser
