"""A main thread that holds the interpreter lock, or does not, beside one that would like to have it."""

import ctypes
import re
import signal
import sys
import threading
import time

signal.alarm(60)


def sleep_in_c():
    """Sleep in C with the lock held, as no library should."""
    ctypes.PyDLL(None).usleep(50_000_000)


def loop_in_c():
    """Backtrack for ever in the matcher of regular expressions, which keeps the lock."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def loop_in_python():
    """Loop."""
    while True:
        pass


def sleep_in_python():
    """Sleep without the lock."""
    time.sleep(50)


def beside():
    """Want the lock now and then."""
    while True:
        time.sleep(0.01)


threading.Thread(target=beside, name="beside", daemon=True).start()
print("ready", flush=True)
globals()[sys.argv[1]]()
