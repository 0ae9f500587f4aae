"""``glasspool stack PID``: how work goes through a program's pools, and the stack of every thread."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from glasspool.cli import codes, parsing, ps

DESCRIPTION = """\
One picture for each pool: the caller that waits for a result, the thread that
hands tasks out, what each worker runs and where in your code that is, the
thread that takes results in. Then the Python stack of every thread: by whom it
was read, how old it is, whether the program was paused for it and for how long
at most, and whether it is whole or perhaps torn. What a worker inherited over
fork is cut away. PID may be a worker's.
"""

EXAMPLES = """\
examples:
  glasspool stack 4242
  glasspool stack 4242 --native      with the C function that a task is in
  glasspool stack 4242 --redact      without the arguments of tasks
  glasspool stack 4242 --json        for programs
"""


def main(arguments: Sequence[str]) -> int:
    """Print the picture and the stacks, once or again and again."""
    options = make_parser().parse_args(list(arguments))
    options.stacks, options.quick = True, False
    return ps.repeated(ps.shows_one(options, flow=True), options)


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    parser = parsing.parser("stack", DESCRIPTION, f"{EXAMPLES}\n{codes.text()}")
    parsing.add_program(parser)
    parser.add_argument(
        "--native",
        action="store_true",
        help="with the calls of C code, too; stops each process for some 50 ms",
    )
    ps.add_options(parser)
    return parser
