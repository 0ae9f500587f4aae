"""``glasspool trace``: what a running pool does, as a timeline for Perfetto's viewer."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from glasspool.cli import codes, complain, parsing
from glasspool.cli.layout import terminal_columns

if TYPE_CHECKING:
    from glasspool.observe.gathering import Gathering
    from glasspool.observe.records import Recording
    from glasspool.observe.watch import View, Watch

DESCRIPTION = """\
Write what the pools of a running program do as a timeline: one track for each
worker, with its initializer and its tasks, numbers over time, and deaths. Each
worker remembers the last 1,023 tasks that it finished, in memory that anybody
of the same user can read: so without --seconds the timeline shows what has
just been, at once, and the program takes no notice. PID may be a worker's.

When each task was submitted, its arguments, what was pickled and called back
when, only the program itself can record: see "glasspool run --trace".
"""

EXAMPLES = """\
examples:
  glasspool trace 4242                     what is remembered at this moment
  glasspool trace 4242 -o now.perfetto-trace
  glasspool trace 4242 --seconds 30        that, and the next 30 s; Ctrl-C ends
                                           it earlier, and writes all the same
  glasspool run --trace run.perfetto-trace script.py
                                           from the first task to the last

Open the file at https://ui.perfetto.dev ("Open trace file"): that page reads
it in your browser, and sends it nowhere. docs/timeline.md tells what is what.
"""

# A reading takes a fraction of a millisecond, and none of the program's time. What a worker had finished is
# gone when it has died and its place is taken by the next one, so even a quiet pool is read now and then.
_OFTEN_S, _SELDOM_S = 0.002, 0.02
_FULL = 300  # of the 1,023 that a ring holds: then it is time to read more often
# A picture costs the program a millisecond or two: now and then, and soon when a worker came or went.
_PICTURE_S, _NEWS_S = 2.0, 0.2


def main(arguments: Sequence[str]) -> int:
    """Record, write, and say what was written."""
    options = make_parser().parse_args(list(arguments))
    to_stdout = options.output == "-"
    if to_stdout and sys.stdout.isatty():
        return complain("this would write binary to the terminal; give -o FILE, or a pipe")
    from glasspool.observe.watch import Watch

    watch = Watch(options.pid, redact=options.redact)
    try:
        return _record(options, watch)
    except KeyboardInterrupt:
        return 130  # as shells count what Ctrl-C has ended
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.FINE
    finally:
        watch.close()


def _record(options: argparse.Namespace, watch: Watch) -> int:
    from glasspool.observe.gathering import Gathering, is_ours
    from glasspool.tracing import write

    gathering = Gathering(watch)
    view = gathering.look()
    pools = () if view.snapshot is None else view.snapshot.pools
    if not any(map(is_ours, pools)):
        return _nothing(options.pid, view)
    name = options.output or f"glasspool-{pools[0].pid}.perfetto-trace"
    try:
        # Before anything is recorded: nobody wants to wait for half a minute to be told of a typing error.
        file = sys.stdout.buffer if name == "-" else open(name, "wb")  # noqa: SIM115
    except OSError as error:
        return complain(f"cannot write {name}: {(error.strerror or str(error)).lower()}")
    try:
        ended = _follow(gathering, options.seconds)
        recordings = gathering.recordings()
        size = write(file, recordings)
        file.flush()
    except OSError as error:
        if name == "-":
            raise
        return complain(f"cannot write {name}: {(error.strerror or str(error)).lower()}")
    finally:
        if name != "-":
            file.close()
    _tell(options, name, recordings, size, ended)
    return codes.FINE


def _nothing(pid: int, view: View) -> int:
    """Say why there is nothing to record, and what there is instead."""
    if view.snapshot is not None and view.problem is None and view.snapshot.pools:
        kinds = " and ".join(dict.fromkeys(pool.kind for pool in view.snapshot.pools))
        return codes.complain(
            "no-pool",
            f"process {pid} has a {kinds}, which remembers nothing of its tasks; start the program "
            "with 'glasspool run --trace FILE', or watch it with 'glasspool top'",
        )
    problem = view.problem or "no-pool"
    return codes.complain(problem, view.text or codes.PROBLEMS[problem][1])


def _follow(gathering: Gathering, seconds: float) -> bool:
    """Record for a while; return whether the program ended meanwhile."""
    begun = pictured = time.monotonic()
    every_s = _SELDOM_S
    gone = False
    with _ctrl_c() as pressed:
        while not gone and (left := begun + seconds - time.monotonic()) > 0:
            # Ends with the time, or with Ctrl-C.
            with suppress(Empty):
                pressed.get(timeout=min(every_s, left))
                break
            most, missed = gathering.read()
            if missed or most > _FULL:
                every_s = max(_OFTEN_S, every_s / 2)
            elif most < _FULL / 4:
                every_s = min(_SELDOM_S, every_s * 1.5)
            if time.monotonic() >= pictured + (_NEWS_S if gathering.has_news else _PICTURE_S):
                gone = gathering.look().past
                pictured = time.monotonic()
                _progress(gathering, pictured - begun, seconds)
        if seconds:
            gone = _last_look(gathering) or gone
            _progress(gathering, None, seconds)
    return gone


@contextmanager
def _ctrl_c() -> Iterator[SimpleQueue[None]]:
    """Give a queue that gets an item when Ctrl-C is pressed, in place of the exception.

    That could be raised between the reading of a ring, which is read once, and the keeping of what it had.
    """
    pressed: SimpleQueue[None] = SimpleQueue()
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.put(None))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _last_look(gathering: Gathering) -> bool:
    """Take the last picture; return whether the program has ended."""
    for _ in range(3):
        gone = gathering.look().past
        if not gathering.has_news:
            break
        # A worker died between the picture and the reading of the rings: the next picture tells how, and
        # how many tasks it had done that cannot be read any more.
    return gone


def _progress(gathering: Gathering, passed: float | None, seconds: float) -> None:
    """Show on a terminal how far the recording is; with None, take that away."""
    if not sys.stderr.isatty():
        return
    text = ""
    if passed is not None:
        text = f"{passed:.0f} s of {seconds:g} s: {gathering.count:,} tasks; Ctrl-C ends it"
    width = max(20, terminal_columns()) - 1
    print(f"\r{text[:width]:<{width}}\r{text[:width]}", end="", file=sys.stderr, flush=True)


def _tell(
    options: argparse.Namespace, name: str, recordings: Sequence[Recording], size: int, ended: bool
) -> None:
    from glasspool.views import timeline

    stream = sys.stderr if name == "-" else sys.stdout
    summary = timeline.summary(recordings)
    if options.json:
        words = {"file": None if name == "-" else os.path.abspath(name), "bytes": size}
        words |= {**summary.as_dict(), "ended": ended}
        print(json.dumps(words), file=stream, flush=True)
        return
    where = "standard output" if name == "-" else name
    print(timeline.told(summary, where, size), file=stream, flush=True)
    if ended:
        print("the program ended while it was recorded", file=stream, flush=True)


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    parser = parsing.parser("trace", DESCRIPTION, f"{EXAMPLES}\n{codes.text()}")
    parsing.add_program(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where to write (default: glasspool-PID.perfetto-trace; - for standard output)",
    )
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=parsing.seconds(0, 86400),
        default=0.0,
        help="also what ends in the next N seconds (default: 0)",
    )
    parser.add_argument("--redact", action="store_true", help="leave out the arguments of tasks")
    parser.add_argument(
        "--json", action="store_true", help="print what was written as JSON, for programs"
    )
    return parser
