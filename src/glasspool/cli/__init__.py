"""The command ``glasspool``: which subcommands there are, and how one is found.

Each subcommand is a module with ``main(arguments) -> int``. Only the one that was asked for is
imported, so help costs little more than the interpreter's own start.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

COMMANDS = {
    "run": ("glasspool.cli.run", "run a program, unchanged, on glasspool, and account for it"),
    "ps": ("glasspool.cli.ps", "list running pools, or every process and thread of one"),
    "stack": (
        "glasspool.cli.stack",
        "who waits for whom in a pool, with the stack of every thread",
    ),
    "why": ("glasspool.cli.why", "say in one sentence why a program hangs, and what to do"),
    "top": ("glasspool.cli.top", "watch pools in the terminal, as htop shows processes"),
    "serve": ("glasspool.cli.serve", "watch pools in a browser, and their metrics"),
    "trace": ("glasspool.cli.trace", "write what a running pool does as a timeline for Perfetto"),
    "doctor": ("glasspool.cli.doctor", "what this machine and container allow, and what follows"),
    "tour": ("glasspool.cli.tour", "see in 20 s which thread does what in a pool"),
    "completion": ("glasspool.cli.completion", "print what makes your shell complete commands"),
}

HELP = """\
usage: glasspool COMMAND [ARGUMENTS]

A process pool that you can see into: which thread of which process does what.

commands:
{commands}

examples:
  glasspool tour                    a first look, on a small real job
  glasspool run script.py data/     your program, its multiprocessing.Pool
                                    replaced, with a report at its end
  glasspool ps                      the pools that you have running, of any kind
  glasspool ps 4242 --watch         one of them, again every 2 seconds

options:
  -h, --help     print this help; "glasspool COMMAND --help" says more
  --version      print the version

Exit codes: 0 for success, 2 for bad usage; "run" ends with the exit code of the
program, "ps", "stack" and "why" have a table of theirs in their help.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The arguments after the command's name; None takes those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(_help(), end="", file=sys.stderr)
        return 2
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0
    if name in ("-V", "--version"):
        from glasspool._version import __version__

        print(f"glasspool {__version__}")
        return 0
    if name not in COMMANDS:
        return complain(_unknown(name))
    command: Callable[[list[str]], int] = importlib.import_module(COMMANDS[name][0]).main
    return command(rest)


def complain(text: str) -> int:
    """Print one line on stderr and return the exit code that goes with it."""
    print(f"glasspool: {text}", file=sys.stderr)
    return 2


def _help() -> str:
    lines = [f"  {name:<11} {text}" for name, (_, text) in COMMANDS.items()]
    return HELP.format(commands="\n".join(lines))


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    if name.startswith("-"):
        return f"unknown option {name!r}; try 'glasspool --help'"
    near = get_close_matches(name, COMMANDS, n=1)
    guess = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
    return f"unknown command {name!r}; {guess}"
