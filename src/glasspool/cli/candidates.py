"""What may follow on a half-typed command line, from the parsers of the commands."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence

from glasspool.cli import COMMANDS

FILES, SCRIPTS = ":files", ":scripts"
"""What stands for the names of files, and of Python's alone; the shell knows better which there are."""

_COMMAND_MOST = 60


def answer(words: Sequence[str]) -> list[str]:
    """Return the lines of candidates for the last word, which may be empty.

    Args:
        words: What stands on the line after the name of the command, up to the cursor.

    Returns:
        Lines of a candidate, a tabulator, and what it is; or ``FILES`` or ``SCRIPTS``.
    """
    typed, before = words[-1], _joined(words[:-1])
    if not before:
        told = [(name, text) for name, (_, text) in COMMANDS.items()]
        return _fitting(
            typed, [*told, ("--help", "print help"), ("--version", "print the version")]
        )
    if before[0] not in COMMANDS:
        return []
    parser = importlib.import_module(COMMANDS[before[0]][0]).make_parser()
    return list(_of_command(before[0], parser, before[1:], typed))


def _joined(words: Sequence[str]) -> list[str]:
    """Return the words as the command gets them: bash takes ``--json=FILE`` for three."""
    whole: list[str] = []
    for word in words:
        option = whole[-1] if whole and whole[-1].startswith("--") else ""
        if option and (word == "=" or option.endswith("=")):
            whole[-1] += word
        else:
            whole.append(word)
    return whole


def _of_command(
    name: str, parser: argparse.ArgumentParser, before: list[str], typed: str
) -> Iterator[str]:
    if name == "run":
        from glasspool.cli.run import split

        ours, theirs = split(before)
        if len(ours) < len(before) or "-m" in ours[:-1]:
            # The program has been named, but for the bare "--" before it.
            yield FILES if theirs or before[-1] != "--" else SCRIPTS
            return
    options = _options(parser)
    awaiting, given = _read(before, options)
    if typed == "=" and before[-1:] and before[-1] in options:
        awaiting, typed = options[before[-1]], ""  # as bash has it
    elif typed.startswith("--") and "=" in typed:
        word, _, _ = typed.partition("=")
        awaiting = options.get(word)
    if awaiting is not None and awaiting.nargs != "?":
        yield from _values(awaiting, typed)
        return
    if awaiting is None and not typed.startswith("-"):
        yield from _positionals(name, parser, given, typed)
    if typed.startswith("-") or awaiting is not None:
        yield from _fitting(typed, [(word, option.help) for word, option in options.items()])


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    # argparse has no public list of what was added to a parser.
    return {word: action for action in parser._actions for word in action.option_strings}


def _read(
    before: list[str], options: dict[str, argparse.Action]
) -> tuple[argparse.Action | None, int]:
    """Return the option whose value comes next, if one does, and how many positionals there were."""
    awaiting: argparse.Action | None = None
    given = 0
    for word in before:
        if word in options:
            awaiting = options[word] if options[word].nargs != 0 else None
        elif word.startswith("--") and word.endswith("=") and word[:-1] in options:
            awaiting = options[word[:-1]]
        elif awaiting is not None or (word.startswith("-") and word != "-"):
            awaiting = None  # the value of the last option, or an option with its value
        else:
            given += 1
    return awaiting, given


def _values(option: argparse.Action, typed: str) -> Iterator[str]:
    if option.metavar == "FILE":
        yield FILES
    elif option.choices:
        yield from _fitting(typed, [(str(choice), "") for choice in option.choices])


def _positionals(
    name: str, parser: argparse.ArgumentParser, given: int, typed: str
) -> Iterator[str]:
    if name == "run":
        yield SCRIPTS
        return
    places = [action for action in parser._actions if not action.option_strings]
    for place in places[given : given + 1]:
        if place.metavar == "PID":
            yield from _fitting(typed, _programs())
        else:
            yield from _values(place, typed)


def _programs() -> list[tuple[str, str]]:
    """Return the programs that run a pool, as far as the operating system alone tells of them."""
    from glasspool.observe import running

    told: dict[str, str] = {}
    for pool in running.pools(others=True, quick=True):
        if pool.problem is None and pool.pid is not None:
            told.setdefault(str(pool.pid), " ".join((pool.command or pool.kind).split()))
    return list(told.items())


def _fitting(typed: str, told: Sequence[tuple[str, str | None]]) -> list[str]:
    return [
        f"{word}\t{_harmless(text or '')}" if text else word
        for word, text in told
        if word.startswith(typed)
    ]


def _harmless(text: str) -> str:
    """Return a description on one line, cut, without what a terminal would obey."""
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return line if len(line) <= _COMMAND_MOST else line[: _COMMAND_MOST - 1] + "…"
