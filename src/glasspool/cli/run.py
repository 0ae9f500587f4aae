"""``glasspool run``: run an unchanged program on glasspool, and account for its pools at the end.

The report comes after everything that the program prints, so it is made by an ``atexit`` function
registered before any of the program's. The program's own output, exit code and tracebacks stay.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from glasspool.cli import complain, parsing
from glasspool.engines import base
from glasspool.errors import EngineCannot

DESCRIPTION = """\
Run a program, unchanged, with glasspool in place of the pools that it knows.

multiprocessing.Pool under each of its names, multiprocessing.pool.ThreadPool,
concurrent.futures.ProcessPoolExecutor and the library multiprocess make pools
of glasspool; all else is as under plain python: arguments, output, exit code.
At the end a report on stderr tells, for each pool, where it was made, every
process and thread with its role, which thread initialised and which executed,
how each worker spent its time, the slowest tasks, and what died.
"""

EXAMPLES = """\
examples:
  glasspool run count.py data/             as "python count.py data/"
  glasspool run -m package.module --fast   as "python -m package.module --fast"
  glasspool run --json run.json count.py   the report also for programs
  glasspool run --quiet count.py           no report, only the other pool
  glasspool run --trace run.perfetto-trace count.py
                                           and a timeline of every task
  glasspool run --report run.html count.py and a page to read: where the time
                                           went, what was slow, what helps
  glasspool run --progress count.py        every map of the program has a bar
  glasspool run --engine dask --address tcp://head:8786 count.py
                                           its pools of processes on a cluster
  glasspool run --children main.py         also in the Pythons that it starts
  glasspool run --hang-after 300 -m pytest in CI: no hour-long hang, but
                                           the reason, and exit code 124
  GLASSPOOL=0 glasspool run count.py       the standard library's pool after all

Options of glasspool come before SCRIPT; what follows it belongs to the program.
The exit code is the program's (2 if SCRIPT cannot be opened, as with python).

With --hang-after the program is ended, with all its processes, when no task of
its pools has begun or ended for that long; a program without a pool, and the
time before its first and after its last task, have that long, too. Then the
roster with the stacks of the program and its workers, and the reason, are
printed on stderr (with --json also written), and the exit code is 124.
"""


_WITH_VALUE = ("--json", "--hang-after", "--trace", "--report", "--engine", "--address")


def main(arguments: Sequence[str]) -> int:
    """Run the program that the arguments name; return its exit code, or raise what it raises."""
    ours, theirs = split(list(arguments))
    options = make_parser().parse_args(ours)
    if options.module is None and not theirs:
        make_parser().error("what shall run? give SCRIPT, or -m MODULE")
    if why := _why_no_engine(options):
        return complain(why)
    target = None if options.json is None else os.path.abspath(options.json)
    if target is not None and not os.access(os.path.dirname(target), os.W_OK | os.X_OK):
        return complain(f"cannot write {options.json}: no such folder, or not permitted")
    if options.trace is not None and (why := _why_not_writable(options.trace)):
        return complain(f"cannot write {options.trace}: {why}")
    if options.report is not None and (why := _why_not_writable(options.report)):
        return complain(f"cannot write {options.report}: {why}")
    if options.hang_after is None:
        return _run(options, target, theirs)
    return _run_watched(options, target, theirs)


def _why_no_engine(options: argparse.Namespace) -> str | None:
    """Say why pools cannot be had where the options want them, or be watched there; None if they can."""
    try:
        base.named(options.engine, options.address)
    except EngineCannot as error:
        return str(error)
    if options.engine != base.LOCAL and (options.hang_after is not None or options.children):
        word = "--children" if options.hang_after is None else "--hang-after"
        return f"{word} looks at pools of this machine: not with --engine {options.engine}"
    return None


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Part our own options from the program and its arguments, which may look like ours."""
    index = 0
    while index < len(arguments):
        word = arguments[index]
        if word == "--":
            return arguments[:index], arguments[index + 1 :]
        if word == "-" or not word.startswith("-"):
            return arguments[:index], arguments[index:]
        if word.startswith("-m"):
            end = index + (2 if word == "-m" else 1)
            return arguments[:end], arguments[end:]
        index += 2 if word in _WITH_VALUE else 1
    return arguments, []


def _why_not_writable(path: str) -> str | None:
    """Say why a file cannot be written at the end of the program, before it begins; None if it can."""
    if os.path.isdir(path):
        return "it is a folder"
    if os.path.exists(path):
        return None if os.access(path, os.W_OK) else "not permitted"
    folder = os.path.dirname(os.path.abspath(path))
    return None if os.access(folder, os.W_OK | os.X_OK) else "no such folder, or not permitted"


def _run_watched(options: argparse.Namespace, target: str | None, theirs: list[str]) -> int:
    from glasspool.cli import hang

    if not hang.is_possible():
        return complain("--hang-after needs fork and sigtimedwait, which this system lacks")
    words = theirs if options.module is None else ["-m", options.module, *theirs]
    return hang.run(
        lambda: _run(options, target, theirs),
        options.hang_after,
        lambda seen: hang.tell(seen, words, target, _full(options.report)),
    )


def _full(path: str | None) -> str | None:
    """Return a path that stays right wherever the program goes."""
    return None if path is None else os.path.abspath(path)


def _run(options: argparse.Namespace, target: str | None, theirs: list[str]) -> int:
    from glasspool.cli import program
    from glasspool.cli.account import Account

    words = theirs if options.module is None else ["-m", options.module, *theirs]
    account = Account(
        words,
        target,
        options.quiet,
        _full(options.trace),
        _full(options.report),
        options.children,
        (options.engine, options.address),
    )
    if options.progress:
        _show_progress()
    try:
        if options.module is not None:
            program.run_module(options.module, theirs)
        else:
            program.run_script(theirs[0], theirs[1:])
    except program.CannotOpen as error:
        account.discard()
        print(error, file=sys.stderr)
        return 2
    except BaseException as error:
        account.program_ended(error)
        raise
    account.program_ended(None)
    return 0


def _show_progress() -> None:
    """Have the program's maps show their progress; not those that its workers make themselves."""
    from glasspool import options

    options.shows_progress = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: setattr(options, "shows_progress", False))


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    parser = parsing.parser(
        "run",
        DESCRIPTION,
        EXAMPLES,
        usage="glasspool run [OPTIONS] (SCRIPT | -m MODULE) [ARGS ...]",
    )
    parser.add_argument(
        "-m",
        dest="module",
        metavar="MODULE",
        help="run a module or package, found as an import would find it",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the report to FILE as JSON, for programs"
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="write a timeline of all pools to FILE, for Perfetto's viewer",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        help="write the report to FILE as an HTML page, of every task from the first one on",
    )
    parser.add_argument(
        "--hang-after",
        metavar="SECONDS",
        type=parsing.seconds(0.1, 1e6),
        help="end the program when nothing gets on for SECONDS, say why, and exit with 124",
    )
    parser.add_argument(
        "--children",
        action="store_true",
        help="replace pools in the program's child processes, too, and account for them",
    )
    parser.add_argument(
        "--engine",
        choices=base.NAMES,
        default=base.LOCAL,
        help="where the workers of pools of processes live (default: local)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="which cluster of dask or ray (default: one on this machine, for each pool)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print no report")
    parser.add_argument(
        "--progress", action="store_true", help="show how far each map of the program is"
    )
    return parser
