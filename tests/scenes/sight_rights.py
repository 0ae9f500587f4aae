"""A process that another may read or may not: each argument is one thing that it does to itself first."""

import ctypes
import os
import signal
import sys
import time

_NOBODY = 65534
_PR_SET_DUMPABLE = 4


def another_user():
    """Become user nobody; the kernel makes it non-dumpable for that."""
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def dumpable():
    """Let itself be read."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def protected():
    """Forbid to be read."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def without_capabilities():
    """Give up all capabilities, as an ordinary container's root has given up most."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError("capset failed")


def inspect(pid):
    """Look at a process, and print what was refused, why, and how much was seen all the same."""
    seen = sight.take(int(pid))
    (process,) = seen.processes
    print(repr((process.dump.refusal, process.dump.note, len(process.threads))), flush=True)


if __name__ == "__main__":
    signal.alarm(60)
    *deeds, last = sys.argv[1:]
    if last != "wait":
        # Before it is somebody who may not read the interpreter's files.
        from glasspool.observe import readers, sight  # noqa: F401
    for deed in deeds:
        globals()[deed]()
    if last == "wait":
        print("ready", flush=True)
        time.sleep(50)
    else:
        inspect(last)
