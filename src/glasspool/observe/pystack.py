"""The C functions that a thread is in, read from outside by pystack, where it is installed.

It names functions that py-spy leaves out, such as the interpreter's own built-in ones, and takes several
times as long. It prints text for people only, which is parsed with care: what is not understood
is left out. It stops its target meanwhile; if it is killed, the kernel lets the target go on.
"""

from __future__ import annotations

import os
import re
import time

from glasspool.observe.pyspy import CFrame

_THREAD = re.compile(r"Traceback for thread (\d+)\b")
_C = re.compile(r'    \(C\) File ".*", line \d+, in (.+?)(?: \(inlined\))? \(([^()]+)\)$')
_PYTHON = "    (Python) "


def program() -> str | None:
    """Return the path of pystack: beside this interpreter, else on the search path, else None."""
    import shutil
    import sysconfig

    beside = os.path.join(sysconfig.get_path("scripts"), "pystack")
    return shutil.which(beside) or shutil.which("pystack")


def native_calls(pid: int, native_id: int, timeout_s: float = 2.0) -> tuple[CFrame, ...]:
    """Read the calls of C code above a thread's innermost Python frame, outermost first.

    Nothing where there is no pystack, or it failed. Blocks for at most about ``timeout_s``.
    """
    from glasspool.observe import readers

    found = program()
    if found is None:
        return ()
    command = (found, "--no-color", "remote", "--native", str(pid))
    try:
        answer = readers.run({pid: command}, time.monotonic() + timeout_s).get(pid)
    except OSError:
        return ()
    return parse(answer.output.decode(errors="replace"), native_id) if answer else ()


def parse(text: str, native_id: int) -> tuple[CFrame, ...]:
    """Find the C frames above the last Python frame of one thread."""
    calls: list[CFrame] = []
    is_it = has_python = False
    for line in text.splitlines():
        if header := _THREAD.match(line):
            is_it = int(header[1]) == native_id
        elif is_it and line.startswith(_PYTHON):
            has_python = True
            calls.clear()
        elif is_it and (call := _C.match(line)) and call[1] != "???":
            calls.append(CFrame(call[1], call[2]))
    return tuple(calls) if has_python else ()
