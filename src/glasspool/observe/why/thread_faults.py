"""Pure: what keeps single threads and processes: stops, the interpreter lock, waits without an end.

Each judge looks at a series of sights and notes what it finds in the case. What it takes for a proof, and
what it cannot know, is told in ``docs/internals/why.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from glasspool.observe import loops, native
from glasspool.observe.diagnosis import Clue, Finding
from glasspool.observe.sight import SeenProcess
from glasspool.observe.why.case import Case, count, listed, seconds, title
from glasspool.observe.why.movement import Actor, Crew
from glasspool.snapshot import Frame

_TAKES_LOCK = re.compile(r"^\s*(?:async\s+)?with\s+[\w.\[\]'\"]+\s*(?:as\s+\w+\s*)?:|\.acquire\(")
_WAITS = re.compile(r"\.(?:get|join|wait|result|recv|wait_for|select|_wait\w*)\(")
_WAITS_FOR_EVENT = frozenset({"Condition.wait", "Event.wait", "Condition.wait_for", "Barrier.wait"})
_WRITES = ("pipe write", "write")
_BUSY_SHARE = 0.02
"""A native thread that used so much of one processor takes part in the work."""


def stopped(case: Case) -> None:
    """Find processes that a signal or a debugger has stopped."""
    stops = [p for p in case.series.last.processes if _is_stopped(case, p)]
    for process in stops:
        by = process.tracer
        name = case.series.extra.names.get(by, "?") if by else ""
        what = f"worker {process.pid}" if process.pid != case.series.last.pid else "the program"
        if by:
            text = (
                f"{what} is held by a debugger: process {by} ({name}) traces process {process.pid}"
            )
            remedy = f"let the debugger go on or detach (or end process {by})"
        else:
            text = f"{what} is stopped by a signal (as SIGSTOP, or Ctrl-Z, does)"
            remedy = f"kill -CONT {process.pid}"
        state = "traced" if by else "stopped"
        clue = Clue(
            f"process {process.pid} is {state} in all {len(case.series.looks)} sights",
            "os",
            process.pid,
        )
        case.say(Finding("stopped", text, pid=process.pid, evidence=(clue,), remedy=remedy))


def _is_stopped(case: Case, process: SeenProcess) -> bool:
    seen = [look.sight.process(process.pid) for look in case.series.looks]
    return all(p is not None and p.os.state in tuple("Tt") for p in seen)


# The interpreter lock ---------------------------------------------------------------------------


def gil(case: Case) -> None:
    """Find threads that keep the interpreter lock in C code."""
    for process in case.series.last.processes:
        owner = _owner(case, process.pid)
        if owner is None:
            continue
        starved = [a for a in case.series.python_of(process.pid) if a.wants_gil and a.is_unmoved]
        if owner.is_still:
            _say_gil(case, owner, starved, "sleeps in C code and keeps the interpreter lock")
        elif starved and _never_gave_way(case, owner):
            _say_gil(case, owner, starved, "computes in C code and keeps the interpreter lock")


def _owner(case: Case, pid: int) -> Actor | None:
    """Return the thread that had the interpreter lock in all sights, at the same line."""
    for actor in case.series.python_of(pid):
        owns = all(thread.python and thread.python.owns_gil for thread in actor.seen)
        if owns and actor.is_unmoved:
            return actor
    return None


def _never_gave_way(case: Case, owner: Actor) -> bool:
    """Tell whether a thread has not once waited: who hands the lock over waits until it is taken."""
    counts = {look.extra.switches.get(owner.tid) for look in case.series.looks}
    return len(counts) == 1 and None not in counts and owner.used_s > 0


def _say_gil(case: Case, owner: Actor, starved: list[Actor], does: str) -> None:
    what = case.place(owner.stack)
    text = f"{title(owner)} {does} {case.since(owner)}, called {what}"
    if starved:
        text += f"; {count(len(starved), 'other thread')} of the process cannot run"
    clues = [case.clue(owner, "owned the interpreter lock in all sights, at the same line")]
    clues += [case.clue(a, "waits for the interpreter lock in all sights") for a in starved[:8]]
    remedy = (
        "have the C code release the interpreter lock (Py_BEGIN_ALLOW_THREADS; ctypes.CDLL instead of "
        "PyDLL; `with nogil`), or call it in a process of its own with a time limit"
    )
    finding = Finding(
        "gil", text, pid=owner.pid, tid=owner.tid, stack=owner.stack, evidence=tuple(clues),
        remedy=remedy,
    )  # fmt: skip
    case.say(finding, lasts_s=1.0)


# Waits that nothing ends ------------------------------------------------------------------------


def closed_processes(case: Case) -> None:
    """Find workers and other children all of whose threads wait for one another, or for nobody."""
    for actor in case.series.actors:
        process = actor.process
        if actor.tid != process.pid or process.pid == case.series.last.pid:
            continue
        if actor.python is None or not actor.waits_privately:
            continue
        if not _is_closed(case, actor) or _has_crew_of_its_own(case, process.pid):
            continue
        _say_closed(case, actor)


def _is_closed(case: Case, waiting: Actor) -> bool:
    return all(a.waits_privately for a in case.series.of(waiting.pid))


def _has_crew_of_its_own(case: Case, pid: int) -> bool:
    return any(crew.pid == pid and crew.helpers for crew in case.series.crews)


def _say_closed(case: Case, actor: Actor) -> None:
    where, rests = case.place(_own_calls(actor)), case.since(actor)
    alone = (
        "it is the only thread of its process"
        if len(case.series.of(actor.pid)) == 1
        else "every thread of its process waits likewise"
    )
    call = actor.place.call if actor.place else None
    call = call or (loops.call_of(actor.stack) or ("", None))[1]
    method, who = start_method(actor), _who(actor)
    if call is not None:
        kind = "nested"
        text = (
            f"{who} waits {rests} in {call}() of a pool that it has inherited over the fork: the threads "
            f"that serve the pool are not in this process; {where}"
        )
        remedy = "don't use the parent's pool in a task: return the new work to the parent instead"
    elif method == "fork" and takes_lock(case, actor.stack):
        kind = "fork-lock"
        text = (
            f"{who} waits {rests} for a lock that it inherited locked over the fork: {alone}, and the "
            f"thread that held it was not copied; {where}"
        )
        remedy = (
            "make the pool before any thread starts, or use the start method forkserver or spawn "
            "(multiprocessing.get_context('forkserver').Pool(...)); os.register_at_fork can renew the lock"
        )
    elif actor.step == "initializer":
        return  # told of as an initializer
    else:
        kind = "task"
        text = f"{who} waits {rests} for something that nothing will bring: {alone}; {where}"
        remedy = "end the worker or the program; give the wait a time limit"
    beside = _beside(case, actor)
    clues = (case.clue(actor, f"is {where}, in a wait without a limit; {alone}"), *beside)
    case.say(
        Finding(
            kind, text, pid=actor.pid, tid=actor.tid, stack=actor.stack, evidence=clues,
            remedy=remedy,
        )
    )  # fmt: skip


def _beside(case: Case, actor: Actor) -> tuple[Clue, ...]:
    """Tell which threads the parent has that may have held the lock at the fork."""
    parents = case.series.ancestors(actor.pid)
    names = [a.name for a in case.series.python_of(parents[0])] if parents else []
    if len(names) < 2:
        return ()
    return (Clue(f"its parent has the threads {listed(names)}", "py-spy", parents[0]),)


def _who(actor: Actor) -> str:
    place = actor.place
    if place is None:
        return f"process {actor.pid}"
    task = f", in {place.function}" if place.function else ""
    return f"worker {actor.pid}{task}"


def _own_calls(actor: Actor) -> tuple[Frame, ...]:
    return (actor.place.users if actor.place else ()) or actor.stack


def start_method(actor: Actor) -> str:
    """Tell how a child process was started, from the lowest calls of its main thread."""
    for frame in actor.python.stack if actor.python else ():
        name = frame.function.rpartition(".")[2]
        if name == "spawn_main":
            return "spawn"
        if name == "_serve_one":
            return "forkserver"
    return "fork"


def takes_lock(case: Case, stack: tuple[Frame, ...]) -> bool:
    """Tell whether the innermost call waits for a lock, and not for an event, a result or an item.

    Locks are taken in C code as well, by streams and by libraries with threads of their own: whatever does
    not look like a wait for something to come is one for a lock.
    """
    if not stack or any(frame.function in _WAITS_FOR_EVENT for frame in stack[-2:]):
        return False
    frame = stack[-1]
    if frame.function.endswith("__enter__"):
        return True
    source = case.line_of(frame.file, frame.line)
    return bool(_TAKES_LOCK.search(source)) or not _WAITS.search(source)


# The program's own code on helper threads and before the first task --------------------------------


def iterable(case: Case, crew: Crew) -> None:
    """Find an iterable that gives no item, while the workers have nothing to do."""
    for helper in _unmoved_helpers(crew, "iterable"):
        if any(w.step not in ("lock", "receive", "idle", "leaving") for w in crew.workers):
            continue
        where = case.place(helper.place.users if helper.place else ())
        text = (
            f"your iterable blocks the thread that hands out tasks, {case.since(helper)}: all "
            f"{len(crew.workers)} {crew.words}s wait for its next item; it is {where}"
        )
        remedy = "look at what the iterable waits for; other jobs of this pool wait behind it too"
        _say_helper(case, "iterable", helper, text, remedy)


def callback(case: Case, crew: Crew) -> None:
    """Find a callback that does not return."""
    for helper in (*_unmoved_helpers(crew, "callback"), *_unmoved_lanes(crew)):
        users = helper.place.users if helper.place else ()
        call = loops.call_of(users) if users else None
        where = case.place(users)
        text = (
            f"your callback blocks the thread that takes in results, {case.since(helper)}: no other result "
            f"of the pool comes in; it is {where}"
        )
        remedy = "have the callback only hand the result on (to a queue.Queue, for example)"
        if call is not None:
            text += f". It waits in {call[1]}() for a result that this very thread would have to take in"
            remedy = "never wait for the pool in its own callback"
        _say_helper(case, "callback", helper, text, remedy)


def _unmoved_helpers(crew: Crew, step: str) -> list[Actor]:
    helpers = dict.fromkeys(crew.helpers.values())
    return [h for h in helpers if h.is_still and h.is_unmoved and h.steps == {step}]


def _unmoved_lanes(crew: Crew) -> list[Actor]:
    if not crew.of_threads:
        return []
    return [w for w in crew.workers if w.is_still and w.is_unmoved and w.steps == {"callback"}]


def _say_helper(case: Case, kind: str, helper: Actor, text: str, remedy: str) -> None:
    clue = case.clue(helper, f"runs your {kind}, the same line in all sights")
    finding = Finding(
        kind, text, pid=helper.pid, tid=helper.tid, stack=helper.stack, evidence=(clue,),
        remedy=remedy,
    )  # fmt: skip
    case.say(finding, lasts_s=case.long_s)


def initializer(case: Case, crew: Crew) -> None:
    """Find an initializer that rests, and does not come to its end."""
    hanging = [
        w for w in crew.workers if w.is_still and w.is_unmoved and w.steps == {"initializer"}
    ]
    if not hanging:
        return
    first = hanging[0]
    others = [w for w in crew.workers if w.steps & {"initializer", "starting"} and not w.is_still]
    if any(w.waits_for_shared for w in hanging) and others:
        return  # they take turns, and one of them gets on
    where = case.place(_own_calls(first))
    text = (
        f"the initializer does not end: {len(hanging)} of {count(len(crew.workers), crew.words)} "
        f"rest{'s' if len(hanging) == 1 else ''} in it {case.since(first)}, {where}"
    )
    clues = tuple(case.clue(w, f"is in the initializer, {where}") for w in hanging[:8])
    remedy = "look at what the initializer waits for; no task begins before it has ended"
    finding = Finding(
        "initializer-hanging", text, pid=first.pid, tid=first.tid, stack=first.stack,
        evidence=clues, remedy=remedy,
    )  # fmt: skip
    case.say(finding, lasts_s=case.long_s)


# Nested calls -----------------------------------------------------------------------------------


def nested(case: Case, crew: Crew) -> None:
    """Find a pool of threads all of which wait for results that only they could bring."""
    if not crew.of_threads or not crew.workers:
        return
    waiting = [w for w in crew.workers if w.is_still and _waits_in(w)]
    if len(waiting) < len(crew.workers) or _may_be_brought(case, crew):
        return
    first = waiting[0]
    call = _waits_in(first)
    text = (
        f"all {len(waiting)} threads of the pool wait in tasks for other tasks ({call}()): none is left to "
        f"run these; {case.place(_own_calls(first))}"
    )
    remedy = (
        "don't wait for tasks of a pool inside tasks of the same pool: use a second pool for the inner "
        "calls, or hand the new work back to the caller"
    )
    clues = tuple(case.clue(w, f"waits in {_waits_in(w)}() in its task") for w in waiting[:8])
    case.say(
        Finding(
            "nested", text, pid=crew.pid, tid=first.tid, stack=first.stack, evidence=clues,
            remedy=remedy,
        )
    )  # fmt: skip


def _waits_in(actor: Actor) -> str | None:
    return actor.place.call if actor.place else None


def _may_be_brought(case: Case, crew: Crew) -> bool:
    """Tell whether another pool of the process, or an event loop, may bring what the threads wait for."""
    for other in case.series.crews:
        if other is crew or other.pid != crew.pid:
            continue
        for worker in other.workers:
            if worker.place is None or not (
                _waits_in(worker) or worker.stays_at("lock", "receive", "idle")
            ):
                return True
    return any(
        frame.function.endswith("run_forever")
        for actor in case.series.python_of(crew.pid)
        for frame in actor.stack
    )


# Pipes ------------------------------------------------------------------------------------------


def full_pipes(case: Case) -> None:
    """Find threads that write into a pipe from which nobody reads."""
    for actor in case.series.actors:
        pipe = actor.pipe(*_WRITES)
        if pipe is None or not actor.is_still or _is_of_a_pool(actor):
            continue
        holders = case.series.extra.readers.get(pipe)
        if holders is None or _somebody_may_read(case, holders, actor):
            continue
        _say_pipe(case, actor, pipe, sorted(holders - {actor.pid}))


def _is_of_a_pool(actor: Actor) -> bool:
    """Tell whether the pool itself writes: whoever should read is judged for himself."""
    return actor.step in ("send", "pickle") or (actor.step != "task" and actor.place is not None)


def _somebody_may_read(case: Case, holders: frozenset[int], writer: Actor) -> bool:
    known = {process.pid for process in case.series.last.processes}
    if holders - known:
        return True  # a process that we have not watched
    return any(
        not a.is_still and a.os.state not in "Tt" and a is not writer and not _is_elsewhere(a)
        for pid in holders
        for a in case.series.of(pid)
    )


def _is_elsewhere(actor: Actor) -> bool:
    """Tell whether a thread that moves only does its duty for a pool: it reads from no other pipe."""
    return actor.place is not None and "task" not in actor.place.roles


def _say_pipe(case: Case, actor: Actor, pipe: str, holders: list[int]) -> None:
    held = case.series.extra.fills.get(pipe)
    filled = f" ({held[0]} of {held[1]} bytes)" if held else ""
    joins = [a for pid in holders for a in case.series.python_of(pid) if _joins(a)]
    text = f"{title(actor)} has written into {pipe} until it was full{filled}, and nobody reads from it"
    lasts_s, remedy = (
        case.long_s,
        "read from the pipe before, or while, waiting for who writes into it",
    )
    if joins and joins[0].pid in case.series.ancestors(actor.pid):
        text += (
            f": process {joins[0].pid}, which should, waits in join() for the end of process {actor.pid} "
            f"instead, {case.place(joins[0].stack)}"
        )
        remedy = "take everything out of the queue before you join the process that has filled it"
        lasts_s = 1.0
    else:
        text += f"; it does so {case.place(_own_calls(actor))}"
    ends = (
        f"its end for reading is held by process {listed(holders)}"
        if holders
        else "no other process has it"
    )
    clues = (
        case.clue(actor, f"writes into {pipe}"),
        Clue(f"{ends}; none of them has read since the first sight", "os"),
        *(case.clue(a, "waits in join()") for a in joins[:3]),
    )
    finding = Finding(
        "pipe-full", text, pid=actor.pid, tid=actor.tid, stack=actor.stack, evidence=clues,
        remedy=remedy,
    )  # fmt: skip
    case.say(finding, lasts_s=lasts_s)


def _joins(actor: Actor) -> bool:
    return actor.is_still and any(
        frame.function.endswith(("Process.join", "Popen.wait")) for frame in actor.stack[-4:]
    )


# Processors ---------------------------------------------------------------------------------------


def oversubscribed(case: Case) -> None:
    """Find more native threads at work than there are processors."""
    limit, window_s = case.series.extra.processors, case.series.window_s
    if limit is None or window_s <= 0:
        return
    natives = [a for a in _natives(case) if a.used_s > 0]
    busy = [a for a in natives if a.used_s / window_s >= _BUSY_SHARE]
    if len(busy) <= limit:
        # On a machine with more to do each gets less, but that they would run shows still.
        busy = [a for a in natives if 2 * _runnable(a) > len(case.series.looks)]
    if len(busy) <= limit:
        return
    processes = sorted({a.pid for a in busy})
    each = max(1, limit // len(processes))
    libraries = sorted({name for a in busy if (name := case.series.extra.owners.get(a.tid))})
    kind = f"native threads ({', '.join(libraries)})" if libraries else "native threads"
    text = (
        f"{len(busy)} {kind} of {len(processes)} process{'' if len(processes) == 1 else 'es'}"
        f" compete for {count(limit, 'processor')}: they take turns, and wait for one another"
    )
    clues = tuple(
        Clue(
            f"process {pid}: {count(n, 'native thread')} used the processor within {seconds(window_s)}",
            "os",
            pid,
        )
        for pid in processes
        if (n := sum(a.pid == pid for a in busy))
    )
    known = dict.fromkeys(v for name in libraries if (v := native.variable_of(name)))
    names = known or ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    remedy = (
        f"set {listed([f'{name}={each}' for name in names])} before the "
        f"program starts, or call threadpoolctl.threadpool_limits({each}) in the pool's initializer"
    )
    case.say(
        Finding("oversubscribed", text, pid=case.series.last.pid, evidence=clues, remedy=remedy),
        lasts_s=1.0,
    )


def _runnable(actor: Actor) -> int:
    """Count the sights in which a thread ran, or would have if a processor had been free."""
    return sum(thread.os.state == "R" for thread in actor.seen)


def _natives(case: Case) -> Iterator[Actor]:
    read = {p.pid for p in case.series.last.processes if p.dump.threads}
    for actor in case.series.actors:
        if actor.pid in read and actor.python is None and actor.tid != actor.pid:
            yield actor
