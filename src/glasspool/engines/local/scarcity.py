"""Scarcity: what is said, and how long is waited, when the system has no more of something.

Owned by the engine; the notes are written by the thread that meets the want (each key by one of them)
and read by whoever looks. A want in the constructor is an error there, with what was tried and what to
do; later it is a note in ``inspect()``, one warning, and a next try after a growing pause.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Callable

from glasspool.errors import GlasspoolError

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0

_NO_THREAD = "can't start new thread"
_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_PROCESSES = (errno.EAGAIN,)
_MEMORY = (errno.ENOMEM,)
_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Shortage:
    """What a pool cannot have at the moment: notes for views, and pauses between tries."""

    def __init__(self, pool: str, made_at: str) -> None:
        self.notes: dict[str, str] = {}
        self._pool = pool
        self._made_at = made_at
        self._tries: dict[str, int] = {}
        self.tell: Callable[[str], None] = lambda text: None  # hears of the first try that failed

    def note(self, key: str, text: str) -> None:
        """Say something in ``inspect()`` until ``over`` is told the same key."""
        self.notes[key] = text

    def failed(self, key: str, what: str, error: BaseException) -> float:
        """Note that ``what`` could not be had; return after how many seconds to try again.

        The first time in a row it warns, too.
        """
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        pause_s: float = min(FIRST_PAUSE_S * 2 ** (min(tries, 20) - 1), LONGEST_PAUSE_S)
        why = f"{what} cannot be started ({reason(error)})"
        self.notes[key] = f"{why}; tried {tries} times, the next try after {pause_s:.1f} s"
        if tries == 1:
            self.tell(f"{why}; it is tried again")
        if tries == 1 and len(self._tries) == 1:
            self._warn(f"{self._pool}: {why}; it is tried again, with growing pauses.")
        return pause_s

    def over(self, key: str) -> None:
        """Forget a want: what was missing is there."""
        if key in self.notes:
            self.notes.pop(key, None)
            self._tries.pop(key, None)

    def _warn(self, text: str) -> None:
        file, _, line = self._made_at.rpartition(":")
        # Where warnings are errors, there is nobody on this thread to take one: the note remains.
        with contextlib.suppress(Warning):
            warnings.warn_explicit(text, RuntimeWarning, file, int(line or 0))


def reason(error: BaseException) -> str:
    """Say in some words why something could not be had."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def explain(error: BaseException, pool: str, size: int, start_method: str) -> OSError | None:
    """Return a clear error for a pool that could not be made; None if it is not a matter of want."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        number = errno.EAGAIN
    advice = None if number is None else _advice(number, size, start_method)
    if number is None or advice is None:
        return None
    what = f"the pool {pool} with {size} workers could not be made: {reason(error)}"
    return OSError(number, f"{what}. {advice}")


def _advice(number: int, size: int, start_method: str) -> str | None:
    if number in _DESCRIPTORS:
        needed = 16 + size * (2 if start_method == "fork" else 4)
        return (
            f"It needs about {needed} file descriptors; {_open_descriptors()} of {_limit('NOFILE')} are "
            "in use. Raise the limit (ulimit -n), or make a smaller pool."
        )
    if number in _PROCESSES:
        return (
            f"It needs {size + 1} processes and 3 threads; the limit of this user is "
            f"{_limit('NPROC')} (ulimit -u), and a container may have one of its own (pids.max)"
            f"{_or_descriptors(start_method)}. Raise the limit, end other processes, or make a "
            "smaller pool."
        )
    if number in _MEMORY:
        return "Free memory, raise its limit (ulimit -v, the container's), or make a smaller pool."
    if number in _ROOM:
        return (
            "The place for shared memory is full: set GLASSPOOL_DIR to a folder with room, raise "
            "the limit (ulimit -f), or make a smaller pool."
        )
    return None


def _or_descriptors(start_method: str) -> str:
    if start_method != "forkserver":
        return ""
    return f"; the fork server also ends for want of descriptors ({_limit('NOFILE')}, ulimit -n)"


def _open_descriptors() -> str:
    # Listing them would need one more. A new one gets the lowest free number; there is none.
    with contextlib.suppress(OSError):
        return str(len(os.listdir("/proc/self/fd")))
    return "all"


def _limit(name: str) -> str:
    try:
        import resource
    except ImportError:  # not on this platform
        return "an unknown number"
    soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    return "no limit" if soft == resource.RLIM_INFINITY else str(soft)


def no_thread(error: BaseException, what: str) -> GlasspoolError:
    """Return the error of a call that needed a thread which could not be started."""
    made = GlasspoolError(
        f"the thread for {what} could not be started ({error}): the limit of processes and threads "
        f"of this user ({_limit('NPROC')}, ulimit -u) or of the container (pids.max) is reached, or "
        "memory is short. The pool goes on without this call."
    )
    made.__cause__ = error
    return made
