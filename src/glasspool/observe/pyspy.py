"""Stacks of other processes, read from outside by py-spy, one reader a process, some side by side.

The ladder, safest first; a next rung is taken only for processes of which the one before gave nothing, or
nothing that makes sense:

1. a reader that does not stop its target. What it reads of a thread that moves meanwhile may be put together
   from two moments; which threads stood still the kernel tells (``Dump.still``);
2. the same again, twice at most: what two readings agree on is no accident;
3. a reader that stops its target for some milliseconds.

The reader needs the right to trace its target on each rung. Its option ``--subprocesses`` is not used: with
JSON it silently drops every child. Its answers are parsed defensively, as the format has changed
between versions, and its words on what went wrong are not trusted: ``rights`` looks itself.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from glasspool.observe import procfs, rights
from glasspool.snapshot import Frame

if TYPE_CHECKING:
    from glasspool.observe import readers

INSTALL = "pip install glasspool[attach]"

Pause = Literal["never", "if-needed", "always"]
"""Whether a process may be stopped while it is read."""

# Each makes long values some 128 characters longer: eight show 31 entries of a list, such as the
# workers or the open jobs of a pool, and cost nothing that could be measured on a pool.
_LOCALS = "-" + "l" * 8

_LOCALS_SHARE = 0.6
"""The part of the time after which local variables are given up, to have the bare stacks at least.

A hundred frames that each hold large dicts took the reader a second.
"""

_MORE_TRIES = 2
"""How often a reading that makes no sense is tried again before its process is stopped.

In a program that starts and ends hundreds of threads a second one reading in a hundred fails.
"""

_MANY_TRIES = 8
"""The same where the process must not be stopped: one that runs all the time is read once in three tries."""

_BOTTOMS = ("<module>", "_run_module_as_main", "Thread._bootstrap", "_bootstrap")
"""What a stack of Python's begins with, mostly: another beginning is looked at twice."""

# The ways of CPython itself to call a thing, whatever the thing is.
_CALLING = re.compile(r"_?Py|cfunction_|slot_|type_call|object_vacall|.*vectorcall")


@dataclass(frozen=True, slots=True)
class OutsideThread:
    """One Python thread as py-spy saw it.

    ``stack`` and ``variables`` run in parallel, outermost first; variables are texts made by py-spy
    (an address in place of what it cannot read).
    """

    native_id: int
    name: str
    ident: int | None
    owns_gil: bool
    stack: tuple[Frame, ...]
    variables: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Dump:
    """What was read of one process: its Python threads, or a note why there are none.

    ``source`` is who read it, as in ``Evidence``; ``paused_s`` for how long the process was stopped for
    it at most (0.0: it was not). ``still`` are the threads that did not move while they were read:
    their stacks are whole. ``refusal`` is the kind of the note: ``missing`` (no reader is installed),
    ``denied``, ``gone``, ``silent``, ``unreadable`` (for example an interpreter that it does not know).
    A note without a refusal tells what is missing of what was read. ``rest`` has the marks of all
    threads that rested when the reading was over, as ``procfs.resting`` gives them.
    """

    threads: tuple[OutsideThread, ...] = ()
    note: str | None = None
    taken_at: float = 0.0
    source: str = "py-spy"
    paused_s: float = 0.0
    refusal: str | None = None
    still: frozenset[int] = frozenset()
    rest: Mapping[int, tuple[int, int]] = field(default_factory=dict)


class CFrame(NamedTuple):
    """One call of C code: the function (an address where the library has no names), and its file."""

    function: str
    library: str


def program() -> str | None:
    """Return the path of py-spy: beside this interpreter, else on the search path, else None."""
    import shutil
    import sysconfig

    beside = os.path.join(sysconfig.get_path("scripts"), "py-spy")
    return shutil.which(beside) or shutil.which("py-spy")


def dump(
    pids: Iterable[int], timeout_s: float = 2.0, *, pause: Pause = "if-needed"
) -> dict[int, Dump]:
    """Read the stacks of several processes, with local variables.

    Blocks for at most about ``timeout_s``; readers that are not done by then are ended. A process that is
    no Python program is not read, and has neither threads nor a note.

    Args:
        pids: The processes.
        timeout_s: The time for all of them together.
        pause: Whether a process may be stopped: ``never``, ``if-needed`` (only after the reader that does
            not stop it gave nothing that makes sense), or ``always``.
    """
    deadline = time.monotonic() + timeout_s
    told = {pid: _unasked(pid) for pid in dict.fromkeys(pids)}
    ask = [pid for pid, answer in told.items() if answer is None]
    found = program() if ask else None
    if ask and found is None:
        note = f"py-spy, which reads stacks from outside, is not installed: {INSTALL}"
        told.update(dict.fromkeys(ask, Dump(note=note, refusal="missing")))
    elif found is not None:
        told.update(_climb(found, ask, timeout_s, deadline, pause))
    return {pid: answer or Dump() for pid, answer in told.items()}


def _unasked(pid: int) -> Dump | None:
    """Tell what is known without a reader; None if one must be asked."""
    seen = procfs.process(pid)
    if seen is None or seen.state in "ZX":
        return Dump(note="the process had ended", refusal="gone")
    refused = rights.denial(pid)
    if refused is not None:
        return Dump(note=str(refused), refusal="denied")
    # A kernel that does not tell what a process executes leaves that to the reader.
    return Dump() if procfs.HAS_PROC and procfs.python_version(pid) is None else None


def _climb(
    found: str, ask: Sequence[int], timeout_s: float, deadline: float, pause: Pause
) -> dict[int, Dump]:
    """Take the next rung for those processes of which the one before gave nothing sensible."""
    stop = [pid for pid in ask if pause == "always" and _may_be_stopped(pid)]
    told = _read(found, stop, deadline, pauses=True)
    gently = [pid for pid in ask if pid not in told]
    told.update(_read(found, gently, deadline - timeout_s * (1 - _LOCALS_SHARE)))
    told.update(_without_locals(found, told, deadline))
    doubtful = [pid for pid in gently if _is_doubtful(told[pid])]
    for _ in range(_MANY_TRIES if pause == "never" else _MORE_TRIES):
        if not doubtful:
            break
        again = _read(found, doubtful, deadline)
        still = [pid for pid in doubtful if _is_doubtful(again[pid], told[pid])]
        told.update({p: again[p] for p in doubtful if _is_better(again[p], told[p])})
        doubtful = still
    if pause == "if-needed":
        stopped = _read(found, [p for p in doubtful if _may_be_stopped(p)], deadline, pauses=True)
        told.update({pid: new for pid, new in stopped.items() if _is_better(new, told[pid])})
    return told


def _without_locals(found: str, told: Mapping[int, Dump], deadline: float) -> dict[int, Dump]:
    silent = [pid for pid, answer in told.items() if answer.refusal == "silent"]
    note = "without local variables: to read them took too long"
    return {
        pid: replace(answer, note=answer.note or note)
        for pid, answer in _read(found, silent, deadline, variables=False).items()
    }


def _is_doubtful(answer: Dump, before: Dump | None = None) -> bool:
    """Tell whether another reading may give more. What two readings agree on is taken as it is."""
    if answer.refusal is not None:
        return answer.refusal == "unreadable" and not _is_too_new(answer.note)
    odd = _oddities(answer)
    return not answer.threads or bool(odd and (before is None or odd != _oddities(before)))


def _is_better(answer: Dump, before: Dump) -> bool:
    return answer.refusal is None or before.refusal is not None


def _oddities(answer: Dump) -> frozenset[tuple[int, Frame | None]]:
    """List the threads whose stacks do not begin as those of Python's threads mostly do."""
    bottoms = ((t.native_id, t.stack[0] if t.stack else None) for t in answer.threads)
    return frozenset(
        (tid, bottom)
        for tid, bottom in bottoms
        if bottom is None or bottom.function not in _BOTTOMS
    )


def _may_be_stopped(pid: int) -> bool:
    # A process that is stopped stands still anyway, and one has one tracer only.
    return not _is_stopped(pid) and procfs.tracer(pid) is None


def _read(
    found: str,
    pids: Sequence[int],
    deadline: float,
    *,
    pauses: bool = False,
    variables: bool = True,
) -> dict[int, Dump]:
    from glasspool.observe import readers  # not loaded by those who want no stacks

    options = [
        "--json",
        *(() if pauses else ("--nonblocking",)),
        *((_LOCALS,) if variables else ()),
    ]
    commands = {pid: (found, "dump", *options, "--pid", str(pid)) for pid in pids}
    try:
        answers = readers.run(commands, deadline) if commands else {}
    except OSError as error:
        note = f"py-spy could not be started: {error}"
        return dict.fromkeys(pids, Dump(note=note, refusal="missing"))
    return {pid: _dump_of(pid, answers.get(pid, readers.Answer()), pauses) for pid in pids}


def _dump_of(pid: int, answer: readers.Answer, paused: bool) -> Dump:
    import json

    paused_s = answer.lasted_s if paused else 0.0
    if answer.code is None:
        return Dump(note="py-spy gave no answer in time", refusal="silent", paused_s=paused_s)
    if answer.code != 0:
        return _failure(pid, answer)
    try:
        threads = _parse(json.loads(answer.output))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        note = f"py-spy's answer was not understood: {error!r}"
        return Dump(note=note, taken_at=answer.taken_at, refusal="unreadable")
    inside = procfs.numbers_inside(pid)
    if inside:
        threads = tuple(replace(t, native_id=inside.get(t.native_id, -1)) for t in threads)
    # A child between fork and exec shows its parent's threads: it lives in the parent's memory.
    own = set(procfs.thread_ids(pid)) or {thread.native_id for thread in threads}
    return Dump(
        threads=_without_unborn(thread for thread in threads if thread.native_id in own),
        taken_at=answer.taken_at,
        paused_s=paused_s,
        still=answer.still,
        rest=answer.rest,
    )


def _without_unborn(threads: Iterable[OutsideThread]) -> tuple[OutsideThread, ...]:
    # Until it runs, a new thread has the number of the one that starts it, and no frame.
    found: dict[int, OutsideThread] = {}
    for thread in threads:
        other = found.get(thread.native_id)
        if other is None or len(other.stack) < len(thread.stack):
            found[thread.native_id] = thread
    return tuple(found.values())


def _failure(pid: int, answer: readers.Answer) -> Dump:
    known = _unasked(pid)
    if known is not None:
        return replace(known, taken_at=answer.taken_at)
    complaint = answer.complaint.strip()
    if _is_too_new(complaint):
        version = procfs.python_version(pid)
        note = f"py-spy cannot read Python {version}: try pip install --upgrade py-spy"
    elif "ermission" in complaint or "not permitted" in complaint:
        return Dump(note=str(rights.explain(pid)), taken_at=answer.taken_at, refusal="denied")
    else:
        note = f"py-spy failed: {complaint.splitlines()[0] if complaint else 'no message'}"
    return Dump(note=note, taken_at=answer.taken_at, refusal="unreadable")


def _is_too_new(words: str | None) -> bool:
    return words is not None and (
        "nsupported version" in words or words.startswith("py-spy cannot read Python")
    )


def _parse(told: Any) -> tuple[OutsideThread, ...]:
    if not isinstance(told, list):
        raise TypeError("not a list of threads")
    return tuple(_thread(entry) for entry in told if entry.get("os_thread_id") is not None)


def _thread(entry: Mapping[str, Any]) -> OutsideThread:
    frames: Sequence[Mapping[str, Any]] = list(reversed(entry.get("frames") or ()))
    return OutsideThread(
        native_id=int(entry["os_thread_id"]),
        name=str(entry.get("thread_name") or ""),
        ident=entry.get("thread_id"),
        owns_gil=bool(entry.get("owns_gil")),
        stack=tuple(
            Frame(str(f.get("filename", "?")), int(f.get("line") or 0), str(f.get("name", "?")))
            for f in frames
        ),
        variables=tuple(
            {str(v.get("name")): str(v.get("repr")) for v in f.get("locals") or ()} for f in frames
        ),
    )


def native_top(pid: int, native_id: int, timeout_s: float = 2.0) -> CFrame | None:
    """Name the C function that a thread's innermost Python frame has called; None if it runs Python.

    Stops the process, for some 20 to 60 ms: only for a process that makes no progress anyway. None also
    where that is not permitted, is not to be had in time, or the process is stopped or traced already.
    py-spy leaves out what it takes for the interpreter itself, ``sum`` and its like: those are
    named where pystack is installed, too.
    """
    from glasspool.observe import pystack  # for few

    deadline = time.monotonic() + timeout_s
    calls = native_calls(pid, native_id, timeout_s)
    if not calls and _may_be_stopped(pid):
        calls = pystack.native_calls(pid, native_id, deadline - time.monotonic())
    return telling_call(calls)


def native_calls(pid: int, native_id: int, timeout_s: float = 2.0) -> tuple[CFrame, ...]:
    """Read the calls of C code above a thread's innermost Python frame, outermost first.

    As ``native_top``. What CPython itself puts between (its evaluation loop) is left out by the reader.
    """
    import json

    from glasspool.observe import readers

    found = program()
    if found is None or not _may_be_stopped(pid):
        return ()
    command = (found, "dump", "--json", "--native", "--pid", str(pid))
    try:
        answer = readers.run({pid: command}, time.monotonic() + timeout_s).get(pid)
        told = json.loads(answer.output) if answer is not None and answer.code == 0 else ()
    except (OSError, ValueError):
        return ()
    inside = {ours: number for number, ours in procfs.numbers_inside(pid).items()}
    wanted = inside.get(native_id, native_id)
    for entry in told if isinstance(told, list) else ():
        if isinstance(entry, dict) and entry.get("os_thread_id") == wanted:
            return _c_calls(entry.get("frames") or ())
    return ()


def telling_call(calls: Sequence[CFrame]) -> CFrame | None:
    """Choose the call that tells most: the first that is not the way from Python into a library."""
    named = [call for call in calls if not call.function.startswith("0x")] or list(calls)
    beyond = [call for call in named if not _is_passage(call)]
    return next(iter(beyond or named), None)


def _is_passage(call: CFrame) -> bool:
    file = os.path.basename(call.library)
    if file.startswith(("libffi", "_ctypes", "_cffi")) or call.function.startswith("__Pyx_"):
        return True
    return "python" in file and _CALLING.match(call.function) is not None


def _is_stopped(pid: int) -> bool:
    told = procfs.process(pid)
    return told is not None and told.state in "Tt"


def _c_calls(frames: Sequence[Mapping[str, Any]]) -> tuple[CFrame, ...]:
    calls: list[CFrame] = []
    for frame in frames:
        if not frame.get("module"):
            break  # a frame of Python's
        calls.append(CFrame(str(frame.get("name", "?")), str(frame["module"])))
    else:
        return ()  # no frame of Python's below: nothing of Python's called it
    return tuple(reversed(calls))
