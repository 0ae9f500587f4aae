"""A Python program that waits, to be looked at: ``bystander.py [undumpable | user UID]``.

With ``undumpable`` it makes itself unreadable first, with ``user`` it changes its user. Prints ``ready PID``.
Ends when standard input is closed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_DUMPABLE = 4


def main() -> None:
    """Set the scene."""
    signal.alarm(60)
    if sys.argv[1:] == ["undumpable"]:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    elif sys.argv[1:2] == ["user"]:
        uid = int(sys.argv[2])
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    print("ready", os.getpid(), flush=True)
    sys.stdin.read()  # until the test closes it, or ends


if __name__ == "__main__":
    main()
