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

DESCRIPTION = """\
Run a program, unchanged, with glasspool in place of multiprocessing.Pool.

multiprocessing.Pool, multiprocessing.pool.Pool and get_context(...).Pool make
pools of glasspool; all else is as under plain python: arguments, output, exit
code. At the end a report on stderr tells, for each pool, where it was made,
every process and thread with its role, which thread initialised and which
executed, how each worker spent its time, the slowest tasks, and what died.
"""

EXAMPLES = """\
examples:
  glasspool run count.py data/             as "python count.py data/"
  glasspool run -m package.module --fast   as "python -m package.module --fast"
  glasspool run --json run.json count.py   the report also for programs
  glasspool run --quiet count.py           no report, only the other pool
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


def main(arguments: Sequence[str]) -> int:
    """Run the program that the arguments name; return its exit code, or raise what it raises."""
    ours, theirs = split(list(arguments))
    options = _parser().parse_args(ours)
    if options.module is None and not theirs:
        _parser().error("what shall run? give SCRIPT, or -m MODULE")
    target = None if options.json is None else os.path.abspath(options.json)
    if target is not None and not os.access(os.path.dirname(target), os.W_OK | os.X_OK):
        return complain(f"cannot write {options.json}: no such folder, or not permitted")
    if options.hang_after is None:
        return _run(options, target, theirs)
    return _run_watched(options, target, theirs)


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
        index += 2 if word in ("--json", "--hang-after") else 1
    return arguments, []


def _run_watched(options: argparse.Namespace, target: str | None, theirs: list[str]) -> int:
    from glasspool.cli import hang

    if not hang.is_possible():
        return complain("--hang-after needs fork and sigtimedwait, which this system lacks")
    words = theirs if options.module is None else ["-m", options.module, *theirs]
    return hang.run(
        lambda: _run(options, target, theirs),
        options.hang_after,
        lambda seen: hang.tell(seen, words, target),
    )


def _run(options: argparse.Namespace, target: str | None, theirs: list[str]) -> int:
    from glasspool.cli import program
    from glasspool.cli.account import Account

    words = theirs if options.module is None else ["-m", options.module, *theirs]
    account = Account(words, target, options.quiet)
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


def _parser() -> argparse.ArgumentParser:
    parser = parsing.parser(
        "run",
        DESCRIPTION,
        EXAMPLES,
        usage="glasspool run [--json FILE] [--quiet] [--hang-after SECONDS]"
        "\n                     (SCRIPT | -m MODULE) [ARGS ...]",
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
        "--hang-after",
        metavar="SECONDS",
        type=parsing.seconds(0.1, 1e6),
        help="end the program when nothing gets on for SECONDS, say why, and exit with 124",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print no report")
    return parser
