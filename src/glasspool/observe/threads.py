"""The threads of this process: Python's own account joined with the operating system's.

A snapshot starts no thread, takes no lock and reads no source file: the frames of all threads are
copied at one moment, and the operating system is asked right after.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import FrameType

from glasspool.observe import procfs
from glasspool.snapshot import Evidence, Frame, ThreadInfo

Stack = tuple[Frame, ...]
Verdict = tuple[tuple[str, ...], str | None, str | None]
"""Roles of a thread, its state in words (None: look at it from outside), and its pool's name."""

Classify = Callable[[threading.Thread], Verdict | None]
"""Tells what it knows of a thread, or None where the thread is none of its own."""

_LIBRARY = os.path.dirname(os.__file__)

# Not asked of the module: a command that looks from outside should not load what it looks at.
POOL_FILE = os.path.join(_LIBRARY, "multiprocessing", "pool.py")
"""The file of the stock pool, as it stands in its frames."""

_OBSERVE_FOLDER = os.path.dirname(__file__) + os.sep
_PACKAGE_FOLDER = os.path.dirname(os.path.dirname(__file__)) + os.sep
_OUR_POOL_FILES = (_PACKAGE_FOLDER + "pool.py", _PACKAGE_FOLDER + "results.py")
_WAITING_FILES = (threading.__file__, os.path.join(_LIBRARY, "queue.py"))
_MULTIPROCESSING = os.path.dirname(POOL_FILE) + os.sep
_POOL_CLASSES = (
    "Pool",
    "ThreadPool",
    "ApplyResult",
    "AsyncResult",
    "MapResult",
    "IMapIterator",
    "IMapUnorderedIterator",
)


def parent_threads(
    classify: Classify, *, stacks: bool, taken: Mapping[int, Stack] | None = None
) -> tuple[ThreadInfo, ...]:
    """List all threads of this process, Python's and native ones, by native id.

    Args:
        classify: Tells roles, state and pool of a thread. For a thread that it does not know, the
            role is ``caller`` if the thread's stack shows it waiting in a call of a pool, else
            ``user``. The main thread has the role ``main`` before any other.
        stacks: Whether to put the stacks in; they are looked at in any case.
        taken: Stacks by ident from ``python_stacks``, if the caller has them already.
    """
    from multiprocessing import current_process  # costs more than all else in here

    frames = python_stacks() if taken is None else taken
    known = _known_threads()
    pid, process = os.getpid(), current_process().name
    told = []
    for native_id in procfs.thread_ids(pid) or tuple(sorted(known)):
        seen = procfs.thread(pid, native_id)
        thread = known.get(native_id)
        if thread is not None:
            stack = frames.get(thread.ident or 0)
            info = _python_thread(thread, seen, stack, classify)
            told.append(
                replace(
                    info,
                    pid=pid,
                    process=process,
                    native_id=native_id,
                    stack=stack if stacks else None,
                )
            )
        elif seen is not None:
            told.append(native_thread(seen, process))
    return tuple(told)


def python_stacks() -> dict[int, Stack]:
    """Copy the stacks of all Python threads of this process, by ident, outermost frame first.

    Frames of this package's observers at the end of the calling thread's stack are left out.
    """
    me = threading.get_ident()
    frames = sys._current_frames()
    try:
        stacks = {ident: stack_of(frame) for ident, frame in frames.items()}
    finally:
        # The dict holds this very frame, which holds the dict: cut the cycle.
        frames.clear()
    stacks[me] = without_observers(stacks.get(me, ()))
    return stacks


def stack_of(frame: FrameType | None) -> Stack:
    """Copy the stack that ends in a frame, outermost first."""
    found = []
    while frame is not None:
        code = frame.f_code
        found.append(Frame(code.co_filename, frame.f_lineno or 0, code.co_qualname))
        frame = frame.f_back
    found.reverse()
    return tuple(found)


def native_thread(seen: procfs.OsThread, process: str, note: str | None = None) -> ThreadInfo:
    """Describe a thread that Python does not know."""
    return ThreadInfo(
        pid=seen.pid,
        process=process,
        name=seen.name,
        native_id=seen.tid,
        roles=("native",),
        state=procfs.state_words(seen),
        is_main=seen.tid == seen.pid,
        python=False,
        os_name=seen.name,
        cpu_s=seen.cpu_s,
        evidence=Evidence("os", note=note),
    )


def waits_in_pool(stack: Stack) -> str | None:
    """Name the pool's call in which a stack waits, for example ``Pool.map``, or None.

    Only a stack whose innermost frames all belong to the pool or to what it waits with counts: a
    callback that a pool runs is the user's code again.
    """
    call = None
    for frame in reversed(stack):
        if frame.file == POOL_FILE or frame.file in _OUR_POOL_FILES:
            if _is_pool_call(frame.function):
                call = frame.function
        elif call is not None or not _is_waiting(frame.file):
            break
    return call


def state_from(stack: Stack | None, seen: procfs.OsThread | None) -> str:
    """Say in words what a Python thread does, from its stack and the kernel's word.

    A thread in a futex may wait for a lock, or just for the interpreter lock that the observer
    holds: only the stack can tell, so then it is said where the thread is.
    """
    if seen is not None and (not stack or _is_told_by_kernel(seen)):
        return procfs.state_words(seen)
    if not stack:
        return "unknown"
    waits = None
    for frame in reversed(stack):
        if frame.file not in _WAITING_FILES or frame.function == "Thread.run":
            break
        waits = frame.function
    if waits is not None:
        return f"waiting in {waits}"
    last = stack[-1]
    return f"in {last.function} ({os.path.basename(last.file)}:{last.line})"


def _is_told_by_kernel(seen: procfs.OsThread) -> bool:
    if seen.state not in "S?":
        return True
    return procfs.sleeps_in(seen) not in (None, "futex")


def _known_threads() -> dict[int, threading.Thread]:
    main = threading.main_thread()
    known = {t.native_id: t for t in threading.enumerate() if t.native_id is not None}
    if procfs.HAS_PROC and known.get(os.getpid()) is not main:
        # In a forked child the main thread may still carry the native id of its parent's thread.
        known = {key: value for key, value in known.items() if value is not main}
        known[os.getpid()] = main
    return known


def _python_thread(
    thread: threading.Thread,
    seen: procfs.OsThread | None,
    stack: Stack | None,
    classify: Classify,
) -> ThreadInfo:
    is_main = thread is threading.main_thread()
    roles, state, pool = classify(thread) or _unclassified(stack or (), is_main)
    if is_main:
        roles = ("main", *(role for role in roles if role != "main"))
    if thread.ident == threading.get_ident():
        state = "taking this snapshot"
    return ThreadInfo(
        pid=0,
        process="",
        name=thread.name,
        native_id=0,
        roles=roles,
        state=state or state_from(stack, seen),
        ident=thread.ident,
        daemon=thread.daemon,
        is_main=is_main,
        os_name=seen.name if seen is not None else None,
        cpu_s=seen.cpu_s if seen is not None else None,
        pool=pool,
        evidence=Evidence("self", note=None if stack else "it began or ended just now"),
    )


def _unclassified(stack: Stack, is_main: bool) -> Verdict:
    call = waits_in_pool(stack)
    if call is not None:
        return ("caller",), f"waiting in {call}()", None
    return (() if is_main else ("user",)), None, None


def _is_pool_call(function: str) -> bool:
    # The handlers' own functions are private; what users call is not.
    owner, _, name = function.rpartition(".")
    if name in ("inspect", "threads", "stats"):
        return False  # to look is not to wait
    return owner in _POOL_CLASSES and (not name.startswith("_") or name == "__next__")


def _is_waiting(file: str) -> bool:
    return file in _WAITING_FILES or file.startswith((_MULTIPROCESSING, _PACKAGE_FOLDER))


def without_observers(stack: Stack) -> Stack:
    """Cut off the frames of this package's observers at the end of a stack."""
    end = len(stack)
    while end and stack[end - 1].file.startswith(_OBSERVE_FOLDER):
        end -= 1
    return stack[:end]
