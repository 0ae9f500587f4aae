"""A program with threads of OpenMP and one of Python beside the main thread: ``gomp_threads.py LIBGOMP``.

Prints ``ready PID``. Ends when standard input is closed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading


def main() -> None:
    """Set the scene."""
    signal.alarm(60)
    # A team of four calls free(NULL), and stays to be used again.
    library = ctypes.CDLL(sys.argv[1])
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
    library.GOMP_parallel(nothing, None, 4, 0)
    threading.Thread(target=threading.Event().wait, args=(50,), daemon=True).start()
    print("ready", os.getpid(), flush=True)
    sys.stdin.read()  # until the test closes it, or ends


if __name__ == "__main__":
    main()
