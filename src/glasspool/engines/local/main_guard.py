"""The main guard: what happens to a program that lacks ``if __name__ == "__main__":``.

A worker that is started anew (spawn, forkserver) first imports the program's main module, to find its
functions there. If the program makes its pool while it is imported, so would each worker, and their workers
in turn. ``multiprocessing`` refuses that in each worker, with a traceback of its own, and the program sees
workers that die. Here such a worker leaves without a word, with an exit code that says why, and the pool
ends with one message.

A worker must know that it is one of ours before anything of ours is imported: it is told together with its
name, which is the first thing that it reads.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sys
from multiprocessing import process as mp_process
from typing import Any

from glasspool.engines.local import interactive

EXIT_CODE = 78
"""The exit code of a worker that was about to make a pool while it imported the program (EX_CONFIG)."""

_MARK = "_glasspool_worker"


class MarkedName(str):
    """The name of a process that arrives as a plain string, and leaves a mark in ``sys`` on its way.

    If the program comes from standard input, it also has the process believe that it has imported it:
    ``multiprocessing`` would look for a file ``<stdin>``. So it does where the process is not to import the
    main module, as that is not the program's (``imports_main``).
    """

    __slots__ = ("_imports_main", "_name")
    _name: str  # which may do something on its way, too
    _imports_main: bool

    def __new__(cls, name: str, imports_main: bool = True) -> MarkedName:
        """Make the name of one."""
        self = super().__new__(cls, name)
        self._name = name
        self._imports_main = imports_main
        return self

    def __reduce__(self) -> Any:
        return operator.itemgetter(0), ((self._name, _Mark(self._imports_main)),)


class _Mark:
    """What leaves the mark where it is unpickled, by builtins alone: ours may not be found there yet."""

    def __init__(self, imports_main: bool) -> None:
        self._imports_main = imports_main

    def __reduce__(self) -> Any:
        mark = f"setattr(__import__('sys'), {_MARK!r}, True)"
        main = sys.modules.get("__main__")
        path = getattr(main, "__file__", None)
        if path is not None and not (self._imports_main and not interactive.is_no_file(path)):
            path = os.path.normpath(os.path.join(mp_process.ORIGINAL_DIR or "", path))  # type: ignore[attr-defined]
            mark += f", setattr(__import__('sys').modules['__main__'], '__file__', {path!r})"
        name = getattr(getattr(main, "__spec__", None), "name", None)
        if name is not None and not self._imports_main:
            spec = f"type(__import__('sys').implementation)(name={name!r})"
            mark += f", setattr(__import__('sys').modules['__main__'], '__spec__', {spec})"
        return eval, (mark,)


def check(start_method: str) -> None:
    """Refuse to make a pool while this process, a worker, imports the program.

    Raises:
        RuntimeError: It is no worker of ours, but another process that was started anew.
    """
    if start_method == "fork" or not getattr(mp_process.current_process(), "_inheriting", False):
        return
    if hasattr(sys, _MARK):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a user's stream may do anything
                stream.flush()
        os._exit(
            EXIT_CODE
        )  # not SystemExit: the program could catch it, and go on to make its pool
    raise RuntimeError(
        "a process that multiprocessing has started imports the program's main module, and that makes a "
        'pool at once. Put what the program does under: if __name__ == "__main__":'
    )


def story(name: str, start_method: str, made_at: str) -> str:
    """Say what is to be done about it."""
    return (
        f"the workers of {name} cannot start: each of them imports the program first (start method "
        f"{start_method}), and the program makes a pool while it is imported, at {made_at}.\n"
        'Put what the program does under `if __name__ == "__main__":`, and leave only definitions outside; '
        "or make the pool with the start method fork: "
        'context=multiprocessing.get_context("fork").'
    )
