"""Run a program in this process as ``python SCRIPT`` and ``python -m MODULE`` run it.

That is: ``sys.argv``, ``sys.path[0]`` and the module ``__main__`` are what the interpreter would
have made them, so that functions of ``__main__`` pickle, also towards spawned processes, which
find the script again through ``__main__``. Exceptions leave as they are, with a traceback that
begins at the program's own first frame; the interpreter then prints them and chooses the exit code.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import pkgutil
import runpy
import sys
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

# The module that was __main__ stays alive here: its globals are those of the frame that called us.
_former_main: list[ModuleType] = []


class CannotOpen(Exception):
    """The script cannot be read; the text is the line that the interpreter prints."""


def run_script(path: str, arguments: list[str]) -> None:
    """Run a file, a folder or zip archive with ``__main__.py``, or ``-`` (standard input).

    Raises:
        CannotOpen: There is no such file, or it may not be read.
        BaseException: Whatever the program raises.
    """
    full = os.getcwd() if path == "." else os.path.join(os.getcwd(), path)
    if path != "-" and pkgutil.get_importer(full) is not None:
        _set_up([path, *arguments], None)
        sys.path.insert(0, full)
        _enter(functools.partial(_run_as_main, "__main__", alter_argv=False))
        return
    # Read before anything changes: what cannot be read is told like bad usage.
    source, precompiled = _read(full) if path != "-" else (sys.stdin.buffer.read(), None)
    folder = "" if path == "-" else os.path.dirname(os.path.realpath(full))
    main = _set_up([path, *arguments], folder)
    main.__file__ = full if path != "-" else "<stdin>"
    main.__loader__ = _loader(path, full, precompiled)
    _enter(functools.partial(_run_code, source, precompiled, main))


def run_module(name: str, arguments: list[str]) -> None:
    """Run a module, or the ``__main__`` of a package, as ``python -m`` does.

    Raises:
        BaseException: Whatever the program raises; SystemExit if there is no such module.
    """
    _set_up(["-m", *arguments], os.getcwd())
    _enter(functools.partial(_run_as_main, name))


def _run_as_main(name: str, alter_argv: bool = True) -> None:
    # The function with which the interpreter itself starts modules, folders and archives: nothing
    # public runs a module in the real __main__.
    runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]


def _run_code(source: bytes, precompiled: CodeType | None, main: ModuleType) -> None:
    code = precompiled
    if code is None:
        code = compile(source, str(main.__file__), "exec", dont_inherit=True)
    exec(code, main.__dict__)


def _read(full: str) -> tuple[bytes, CodeType | None]:
    try:
        with io.open_code(full) as file:
            # Any other file than one of bytecode gives None.
            code = pkgutil.read_code(file)
            file.seek(0)
            return file.read(), code
    except OSError as error:
        raise CannotOpen(
            f"{sys.executable}: can't open file {full!r}: [Errno {error.errno}] {error.strerror}"
        ) from None


def _loader(path: str, full: str, precompiled: CodeType | None) -> Any:
    if path == "-":
        return BuiltinImporter
    kind = SourceFileLoader if precompiled is None else SourcelessFileLoader
    return kind("__main__", full)


def _set_up(argv: list[str], folder: str | None) -> ModuleType:
    """Give the program its arguments, its first search folder and an empty ``__main__``."""
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    main.__dict__["__cached__"] = None
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    _former_main.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    # The name under which spawned workers know it, for classes that come back from them. It is
    # set when multiprocessing is imported, which has happened.
    sys.modules["__mp_main__"] = main
    sys.argv = argv
    if not sys.flags.safe_path:
        # What is there now is the folder of the command, or the current one.
        del sys.path[0]
        if folder is not None:
            sys.path.insert(0, folder)
    _stay_importable()
    return main


def _stay_importable() -> None:
    """Let spawned workers find this package even if only the entry just removed led to it."""
    import glasspool

    home = os.path.dirname(os.path.dirname(os.path.abspath(str(glasspool.__file__))))
    if home not in (os.path.abspath(entry) for entry in sys.path):
        sys.path.append(home)


def _enter(program: Callable[[], None]) -> None:
    try:
        program()
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames()
        raise


def _hide_our_frames() -> None:
    """Have the exception that now leaves printed without the frames of this command.

    The interpreter prints it through ``sys.excepthook``, which may be one of the program's: it
    gets the shortened traceback, and is in place again by then.
    """
    theirs = getattr(sys, "excepthook", sys.__excepthook__)

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = theirs
        value.__traceback__ = sys.last_traceback = _after_entry(trace)
        theirs(kind, value, value.__traceback__)

    sys.excepthook = hook


def _after_entry(trace: TracebackType | None) -> TracebackType | None:
    entries: list[TracebackType] = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    ours = (_enter.__code__, _run_code.__code__, _run_as_main.__code__)
    last = max((i for i, entry in enumerate(entries) if entry.tb_frame.f_code in ours), default=-1)
    return entries[last + 1] if last + 1 < len(entries) else None
