"""Pure: what is wrong with a pool as a whole: helper threads that ended, locks of the dead, lost tasks.

Each judge looks at a series of sights and notes what it finds in the case. What it takes for a proof, and
what it cannot know, is told in ``docs/internals/why.md``.
"""

from __future__ import annotations

import re

from glasspool.observe import libraries
from glasspool.observe.diagnosis import Clue, Finding
from glasspool.observe.sight import Sight
from glasspool.observe.why.case import SURE_S, Case, count, listed, seconds
from glasspool.observe.why.movement import BEGUN_STEPS, Actor, Crew, place_of

_READS = ("pipe read", "read", "pipe")
_JOB = re.compile(r"(\d+): <(\w+)")
_HEAD_BYTES = 4
"""A message begins with its length in so many bytes: who waits for more is in the middle of one."""

_MESSAGE_GONE = "the rest of its message never comes"
_HANDLER_DUTIES = {
    "worker-handler": ("replaces workers", "an error as it started a worker (no memory, no more processes)"),
    "task-handler": ("hands out tasks", "an iterable that left by SystemExit or KeyboardInterrupt"),
    "result-handler": (
        "takes in results",
        "a result or exception that could not be rebuilt, a callback that raised or called sys.exit()",
    ),
}  # fmt: skip
_RESTART = "nothing repairs this pool: end the program (the pool's terminate() may hang, too)"


# Helper threads ---------------------------------------------------------------------------------


def handlers(case: Case, crew: Crew) -> None:
    """Find helper threads that have ended while the pool is in use."""
    if crew.is_stock and crew.helpers:
        for role in _missing(case, crew):
            _say_missing(case, crew, role)
    elif not crew.of_threads and crew.workers and not crew.helpers:
        _without_manager(case, crew)


def _missing(case: Case, crew: Crew) -> list[str]:
    present = {
        role
        for look in case.series.looks
        for process in look.sight.processes
        if process.pid == crew.pid
        for thread in process.threads
        if (place := place_of(thread)) is not None
        for role in place.roles
    }
    missing = [role for role in _HANDLER_DUTIES if role not in present]
    if "worker-handler" in missing and not _is_in_use(crew):
        return []  # closed: the others leave after it, the result-handler when it has all
    return missing


def _is_in_use(crew: Crew) -> bool:
    feeder = crew.helpers.get("task-handler")
    return bool(crew.jobs) and feeder is not None and feeder.stays_at("wait")


def _say_missing(case: Case, crew: Crew, role: str) -> None:
    duty, cause = _HANDLER_DUTIES[role]
    jobs = f"; {_jobs_words(crew)} for ever" if crew.jobs else ""
    text = f"the {role} of the pool, the thread that {duty}, has ended{jobs}. Causes: {cause}"
    rest = sorted(crew.helpers)
    clues = [Clue(f"process {crew.pid} has the helper threads {listed(rest)}, and no {role}")]
    clues += [
        case.clue(helper, f"({', '.join(helper.place.roles)}) is there")
        for helper in dict.fromkeys(crew.helpers.values())
        if helper.place is not None
    ]
    remedy = (
        "look for its traceback on the program's standard error; catch the error in the callback, give the "
        f"exception a __reduce__ (or call super().__init__ with all its arguments). {_RESTART}"
    )
    case.say(Finding("handler-dead", text, pid=crew.pid, evidence=tuple(clues), remedy=remedy))


def _without_manager(case: Case, crew: Crew) -> None:
    if not all(worker.is_still for worker in crew.workers):
        return
    parent = case.series.last.process(crew.pid)
    if parent is None or not parent.dump.threads or not case.series.python_of(crew.pid):
        return
    text = f"the executor's manager thread has ended; its {len(crew.workers)} workers wait for ever"
    clues = tuple(case.clue(w, "waits for work") for w in crew.workers[:8])
    case.say(
        Finding("handler-dead", text, pid=crew.pid, evidence=clues, remedy=_RESTART),
        lasts_s=1.0,
    )


def _jobs_words(crew: Crew) -> str:
    found = _JOB.findall(crew.jobs or "")
    if not found:
        return "the open jobs wait"
    names = [f"{number} ({kind})" for number, kind in found]
    more = " and others" if (crew.jobs or "").rstrip().endswith("...") else ""
    one = len(names) == 1
    return f"job{'' if one else 's'} {', '.join(names)}{more} wait{'s' if one else ''}"


# Locks of the pool's queues ---------------------------------------------------------------------


def queue_locks(case: Case, crew: Crew) -> None:
    """Find locks of the pool's queues that a dead worker has taken with it."""
    if crew.of_threads or not crew.workers or _is_being_ended(case, crew):
        return
    if case.series.unread(crew):
        return  # whoever could not be read may be the one who has the lock
    steps = {step for worker in crew.workers for step in worker.steps}
    waiting = [w for w in crew.workers if w.stays_at("lock")]
    if waiting and not steps & {"receive", "idle"} and all(w.always for w in waiting):
        _say_read_lock(case, crew, waiting)
    senders = [w for w in crew.workers if w.stays_at("send-lock")]
    if senders and not steps & {"send"} and not _parent_sends(crew):
        _say_write_lock(case, crew, senders)
    elif not steps & {"send"} and _is_in_message(crew):
        _say_half_message(case, crew)


def _is_being_ended(case: Case, crew: Crew) -> bool:
    """Tell whether the program is ending the pool, for which it takes the lock of the tasks itself."""
    return any(
        frame.function.rpartition(".")[2] in ("_terminate_pool", "_help_stuff_finish")
        for actor in case.series.python_of(crew.pid)
        for frame in actor.stack
    )


def _parent_sends(crew: Crew) -> bool:
    # Of a pool that is being closed, the task-handler writes into the queue of results too.
    feeder = crew.helpers.get("task-handler")
    return feeder is not None and "send" in feeder.steps


def _say_read_lock(case: Case, crew: Crew, waiting: list[Actor]) -> None:
    text = (
        f"a worker was killed while it waited for work: it held the lock of the queue of tasks, which nobody "
        f"gives back; {count(len(waiting), 'worker')} wait{'s' if len(waiting) == 1 else ''} for that lock"
        f"{f', and {_jobs_words(crew)}' if crew.jobs else ''}"
    )
    clues = [case.clue(w, "waits for the lock of the queue of tasks") for w in waiting[:8]]
    clues.append(_nobody_inside(case, crew, "reads from the queue of tasks"))
    clues += _replaced_clues(case, crew)
    remedy = (
        f"{_RESTART}. Don't kill workers from outside; find out who did (the kernel's OOM killer: dmesg). "
        "glasspool.Pool has no lock that workers share"
    )
    case.say(
        Finding(
            "idle-killed", text, pid=crew.pid, tid=waiting[0].tid, stack=waiting[0].stack,
            evidence=tuple(clues), remedy=remedy,
        ),
        lasts_s=1.0,
    )  # fmt: skip


def _say_write_lock(case: Case, crew: Crew, senders: list[Actor]) -> None:
    text = (
        f"a worker was killed while it sent a result: it held the lock of the queue of results, which nobody "
        f"gives back; {count(len(senders), 'worker')} cannot send what "
        f"{'it has' if len(senders) == 1 else 'they have'} finished"
    )
    clues = [case.clue(w, "waits for the lock of the queue of results") for w in senders[:8]]
    clues.append(_nobody_inside(case, crew, "writes into the queue of results"))
    clues += _replaced_clues(case, crew)
    _say_lock_dead(case, crew, text, clues, senders[0])


def _say_half_message(case: Case, crew: Crew) -> None:
    taker = crew.helpers["result-handler"]
    text = (
        "a worker was killed while it sent a result, holding the lock of the queue of results: the "
        f"result-handler has read a part of it, and {_MESSAGE_GONE}"
    )
    clues = [
        case.clue(taker, "is in the middle of a message"),
        _nobody_inside(case, crew, "writes into the queue of results"),
        *_replaced_clues(case, crew),
    ]
    _say_lock_dead(case, crew, text, clues, taker)


def _say_lock_dead(case: Case, crew: Crew, text: str, clues: list[Clue], actor: Actor) -> None:
    remedy = (
        f"{_RESTART}. Find out who killed the worker (the kernel's OOM killer: dmesg). glasspool.Pool has no "
        "lock that workers share"
    )
    case.say(
        Finding(
            "lock-dead", text, pid=crew.pid, tid=actor.tid, stack=actor.stack,
            evidence=tuple(clues), remedy=remedy,
        ),
        lasts_s=1.0,
    )  # fmt: skip


def _is_in_message(crew: Crew) -> bool:
    """Tell whether the result-handler rests in the middle of a message."""
    taker = crew.helpers.get("result-handler")
    if taker is None or not taker.is_still or taker.pipe(*_READS) is None:
        return False
    args = taker.os.syscall_args
    return len(args) > 2 and args[2] != _HEAD_BYTES and crew.is_stock


def _nobody_inside(case: Case, crew: Crew, does: str) -> Clue:
    pids = listed(sorted({worker.pid for worker in crew.workers}))
    return Clue(f"no living worker ({pids}) {does} in any of {len(case.series.looks)} sights")


# Locks that the program's own processes share -----------------------------------------------------


def shared_locks(case: Case) -> None:
    """Find semaphores shared by processes for which some wait, and that none which lives can give back."""
    waiting: dict[str, list[Actor]] = {}
    for actor in case.series.actors:
        name = case.series.extra.semaphores.get(actor.tid)
        if name and actor.waits_for_shared and actor.step not in ("lock", "send-lock"):
            waiting.setdefault(name, []).append(actor)
    for name, actors in waiting.items():
        if any(_is_at_queue(actor) for actor in actors):
            _judge_queue(case, name, actors)
        elif all(actor.step == "task" for actor in actors):
            _judge_lock_of_tasks(case, name, actors)


def _is_at_queue(actor: Actor) -> bool:
    return any(_in_queues(frame.file) for frame in actor.stack[-3:])


def _in_queues(file: str) -> bool:
    return file.replace("\\", "/").endswith(("multiprocessing/queues.py", "multiprocess/queues.py"))


def _judge_queue(case: Case, name: str, actors: list[Actor]) -> None:
    """Judge a lock of a queue: whoever holds it is seen inside the queue."""
    tids = {actor.tid for actor in actors}
    mappers = case.series.extra.mappers.get(name, frozenset())
    for actor in case.series.actors:
        if actor.pid in mappers and actor.tid not in tids and _may_be_inside(actor):
            return
    if mappers - {process.pid for process in case.series.last.processes}:
        return  # a process that was not watched has it too
    first = actors[0]
    text = (
        f"a process that has died holds the lock of a queue: {count(len(actors), 'thread')} "
        f"wait{'s' if len(actors) == 1 else ''} for it, and no living process is inside the queue; "
        f"{case.place(first.stack)}"
    )
    clues = [case.clue(actor, f"waits for the semaphore {name}") for actor in actors[:8]]
    clues.append(
        Clue(f"processes {listed(sorted(mappers))} have that semaphore; none is inside", "os")
    )
    remedy = (
        "end the program; don't kill processes that share a queue (or use a queue of a Manager)"
    )
    case.say(
        Finding(
            "lock-dead", text, pid=first.pid, tid=first.tid, stack=first.stack,
            evidence=tuple(clues), remedy=remedy,
        ),
        lasts_s=1.5,
    )  # fmt: skip


def _may_be_inside(actor: Actor) -> bool:
    """Tell whether a thread may hold a lock of a queue: it is in one, or it runs something not read."""
    if actor.python is None:
        return actor.tid == actor.pid
    waits = any(frame.function == "Condition.wait" for frame in actor.stack[-2:])
    return not waits and any(_in_queues(frame.file) for frame in actor.stack)


def _judge_lock_of_tasks(case: Case, name: str, actors: list[Actor]) -> None:
    """Judge a lock of the program's own: all that could give it back must be known to be elsewhere."""
    crew = next((c for c in case.series.crews if actors[0] in c.workers), None)
    if crew is None or crew.of_threads:
        return
    tids = {actor.tid for actor in actors}
    mappers = case.series.extra.mappers.get(name, frozenset())
    watched = {crew.pid, *(worker.pid for worker in crew.workers)}
    servers = {p.pid for p in case.series.last.processes if not case.series.python_of(p.pid)}
    if mappers - watched - servers:
        return
    for worker in crew.workers:
        if worker.tid not in tids and not worker.stays_at("lock", "receive", "idle"):
            return
    for actor in case.series.python_of(crew.pid):
        if actor.place is None or not actor.is_still:
            return  # it may give the lock back
    dead = _replaced(case, crew) and crew.variables.get("maxtasksperchild") == "None"
    first = actors[0]
    held = "the worker that held it has died" if dead else "whoever took it has not given it back"
    text = (
        f"{count(len(actors), 'task')} wait{'s' if len(actors) == 1 else ''} for a lock of the program that "
        f"nobody will release: {held}; {case.place(first.place.users if first.place else ())}"
    )
    clues = [case.clue(actor, f"waits for the semaphore {name}") for actor in actors[:8]]
    clues.append(Clue("every other worker is idle, and the program waits for their results"))
    clues += _replaced_clues(case, crew)
    case.say(
        Finding(
            "lock-dead" if dead else "task", text, pid=first.pid, tid=first.tid, stack=first.stack,
            evidence=tuple(clues), remedy=f"take the lock with `with`, and with a limit. {_RESTART}",
        ),
        lasts_s=1.0,
    )  # fmt: skip


# Lost tasks -------------------------------------------------------------------------------------


def lost_tasks(case: Case, crew: Crew) -> None:
    """Find open jobs whose tasks nobody has any more."""
    taker, feeder = crew.helpers.get("result-handler"), crew.helpers.get("task-handler")
    if not crew.is_stock or not crew.jobs or not crew.workers or taker is None or feeder is None:
        return
    if not (taker.stays_at("wait") and feeder.stays_at("wait")) or _is_in_message(crew):
        return
    if case.series.unread(crew):
        return  # whoever could not be read may be the one who has the task
    if not crew.of_threads and not any(w.stays_at("receive") for w in crew.workers):
        return  # only who waits in the pipe shows that it is empty
    if all(w.stays_at("lock", "receive", "idle") for w in crew.workers):
        _say_lost(case, crew, _jobs_words(crew))
    else:
        _lost_beside_others(case, crew)


def _lost_beside_others(case: Case, crew: Crew) -> None:
    """Judge a pool that is still at work: some of its workers run tasks, and one waits for more."""
    at_tasks = [w for w in crew.workers if w.step in ("task", "pickle", "send", "send-lock")]
    rest = [w for w in crew.workers if w not in at_tasks]
    if not all(w.stays_at("lock", "receive", "idle") for w in rest) or crew.of_threads:
        return
    running = {w.place.job for w in at_tasks if w.place}
    if None in running or any(len({p.job if p else None for p in w.places}) > 1 for w in at_tasks):
        return
    orphans = [
        int(number) for number, _ in _JOB.findall(crew.jobs or "") if int(number) not in running
    ]
    if orphans:
        _say_lost(case, crew, f"job {listed(orphans)}, which no worker has, waits")
    elif _replaced(case, crew) and crew.variables.get("maxtasksperchild") == "None":
        _say_lost(
            case,
            crew,
            f"a part of {_jobs_words(crew).removesuffix(' wait')} waits",
            ", most likely",
        )


def _say_lost(case: Case, crew: Crew, waits: str, how: str = "") -> None:
    died = _replaced(case, crew)
    who = "thread that ended" if crew.of_threads else "worker that died"
    also = f" ({listed(f'process {w.pid} replaces one' for w in died)})" if died else ""
    idle = sum(w.stays_at("lock", "receive", "idle") for w in crew.workers)
    total = len(crew.workers)
    state = f"{idle} of {total}" if idle < total else ("the only" if idle == 1 else f"all {idle}")
    text = (
        f"a task was lost with a {who}{how}{also}: {waits} for ever, while {state} "
        f"{crew.words}{'' if total == 1 else 's'} wait{'s' if idle == 1 else ''} for work "
        "and no task or result is on its way"
    )
    clues = [case.clue(w, f"is idle ({w.place.words})") for w in crew.workers[:8] if w.place]
    for role, told in (
        ("task-handler", "has nothing to hand out"),
        ("result-handler", "has nothing to take in"),
    ):
        clues.append(case.clue(crew.helpers[role], f"({role}) {told}"))
    clues += _replaced_clues(case, crew)
    remedy = (
        "the pool never sends a task again: end the program, and find out what ended the worker (a signal, "
        "the OOM killer, sys.exit, a crash in C code). get(timeout=...) limits the wait; glasspool.Pool ends "
        "such a task with WorkerDied"
    )
    case.say(
        Finding("task-lost", text, pid=crew.pid, evidence=tuple(clues), remedy=remedy),
        lasts_s=1.0,
    )


def _replaced(case: Case, crew: Crew) -> list[Actor]:
    """Return the workers that were started after the pool's threads, which the first ones never are."""
    handler = crew.helpers.get("worker-handler")
    if handler is None or crew.of_threads:
        return []
    # Threads and processes are numbered by one counter; ticks of the clock are coarse.
    begun = handler.os.start_ticks, handler.tid
    return [w for w in crew.workers if (w.process.os.start_ticks, w.pid) > begun]


def _replaced_clues(case: Case, crew: Crew) -> list[Clue]:
    recycled = crew.variables.get("maxtasksperchild", "None") != "None"
    why = (
        "workers are recycled after some tasks"
        if recycled
        else "workers are not recycled: one died"
    )
    return [
        Clue(f"worker {w.pid} was started after the pool's own threads ({why})", "os", w.pid)
        for w in _replaced(case, crew)[:8]
    ]


# Workers that do not last -------------------------------------------------------------------------


def turnover(case: Case, crew: Crew) -> None:
    """Find pools whose workers end before they have begun, again and again."""
    if not crew.is_stock or crew.of_threads or "worker-handler" not in crew.helpers:
        return
    if crew.variables.get("maxtasksperchild", "None") != "None" and _has_moved(case, crew):
        return
    born, ended, begun = _lives(case, crew)
    lists = _lists_of_workers(case, crew)
    changes = max(min(len(born), len(ended)), len(lists) - 1)
    if begun or not changes:
        return
    has_initializer = crew.variables.get("initializer", "None") != "None"
    kind = "initializer-failing" if has_initializer else "workers-failing"
    window = seconds(case.series.window_s)
    what = "in the initializer" if has_initializer else "as they start"
    text = (
        f"the workers end {what}, again and again: {max(len(born), changes)} or more were started within "
        f"{window}, and none has begun to take tasks{f'; {_jobs_words(crew)}' if crew.jobs else ''}"
    )
    clues = (
        Clue(
            f"workers that were started within {window}: {listed(sorted(born)) or 'none seen'}",
            "os",
        ),
        Clue(f"workers that ended within {window}: {listed(sorted(ended)) or 'none seen'}", "os"),
        Clue(f"the pool's list of workers was another one {len(lists)} times", pid=crew.pid),
        case.clue(crew.helpers["worker-handler"], "starts workers all the time"),
    )
    remedy = "read the traceback that each worker writes to the program's standard error. "
    remedy += (
        "Catch what the initializer raises, and report it"
        if has_initializer
        else "Is the main part inside `if __name__ == '__main__':`? Can the workers import all they need?"
    )
    # One that ends may be an accident; where to start takes long, more are not to be seen in the time.
    case.say(
        Finding(kind, text, pid=crew.pid, evidence=clues, remedy=remedy),
        lasts_s=SURE_S if changes > 1 else case.long_s,
    )


def _lists_of_workers(case: Case, crew: Crew) -> list[str]:
    """Return the pool's list of its workers, as often as it was another one: they may end unseen."""
    handler = crew.helpers["worker-handler"]
    told = [p.variables.get("pool") for p in handler.places if p is not None]
    known = [text for text in told if text and text != "[]"]
    return [text for at, text in enumerate(known) if at == 0 or text != known[at - 1]]


def _lives(case: Case, crew: Crew) -> tuple[set[int], set[int], bool]:
    """Return the workers that started meanwhile, those that ended, and whether one took tasks."""
    first = case.series.looks[0].sight.taken_at
    seen: list[set[int]] = []
    born: set[int] = set()
    begun = False
    for look in case.series.looks:
        here: set[int] = set()
        for process in look.sight.processes:
            if process.pid == crew.pid or crew.pid not in _line(look.sight, process.pid):
                continue
            main = process.main
            place = place_of(main) if main is not None else None
            is_unread = main is not None and main.python is None
            if not is_unread and (place is None or "task" not in place.roles):
                continue
            here.add(process.pid)
            if process.os.started_at > first - 0.05:
                born.add(process.pid)
            begun = begun or (place is not None and place.step in BEGUN_STEPS)
        seen.append(here)
    ended = {pid for before in seen for pid in before} - seen[-1]
    return born, ended, begun


def _line(sight: Sight, pid: int) -> set[int]:
    found: set[int] = set()
    process = sight.process(pid)
    while process is not None and process.os.ppid not in found:
        found.add(process.os.ppid)
        process = sight.process(process.os.ppid)
    return found


def _has_moved(case: Case, crew: Crew) -> bool:
    feeder, taker = crew.helpers.get("task-handler"), crew.helpers.get("result-handler")
    return not all(helper is None or helper.is_still for helper in (feeder, taker))


# Executors --------------------------------------------------------------------------------------


def broken(case: Case) -> None:
    """Find executors that have given up, and such as have no worker left."""
    for crew in case.series.crews:
        if crew.kind in (libraries.EXECUTOR, libraries.LOKY):
            _judge_executor(case, crew)
    if not any(crew.kind in (libraries.EXECUTOR, libraries.LOKY) for crew in case.series.crews):
        _judge_remains(case)


def _judge_executor(case: Case, crew: Crew) -> None:
    manager = crew.helpers.get("result-handler")
    if manager is None:
        return
    if manager.stays_at("break") or manager.steps == {"break"}:
        text = (
            "the executor is broken (a worker has died), and its manager thread cannot end it: "
            f"{case.place(manager.stack)}"
        )
        lasts_s = 1.0
    elif not crew.workers and manager.stays_at("wait") and _is_waited_for(case, crew):
        text = (
            "the executor has no worker left and starts none, while somebody waits for a result "
            "(as ProcessPoolExecutor with max_tasks_per_child does in many versions of Python)"
        )
        lasts_s = 1.0
    else:
        return
    clue = case.clue(manager, f"({manager.place.words if manager.place else 'manager'})")
    finding = Finding(
        "pool-broken", text, pid=crew.pid, tid=manager.tid, stack=manager.stack, evidence=(clue,),
        remedy="end the program; make a new executor after BrokenProcessPool",
    )  # fmt: skip
    case.say(finding, lasts_s=lasts_s)


def _is_waited_for(case: Case, crew: Crew) -> bool:
    return any(
        actor.place is not None and "caller" in actor.place.roles
        for actor in case.series.python_of(crew.pid)
    )


def _judge_remains(case: Case) -> None:
    """Look for what the death of an executor leaves in the program's local variables."""
    for actor in case.series.python_of(case.series.last.pid):
        for variables in actor.python.variables if actor.python else ():
            problem = next((v for v in variables.values() if _tells_of_break(v)), None)
            if problem is not None:
                text = (
                    f"a ProcessPoolExecutor of the program is broken: a worker died, and every task of it "
                    f"failed; the program goes on {case.place(actor.stack)}"
                )
                kind = problem.strip("<>").split(" ")[0]
                clue = case.clue(actor, f"has the exception {kind} in a local variable")
                case.say(
                    Finding(
                        "pool-broken", text, pid=actor.pid, tid=actor.tid, stack=actor.stack,
                        evidence=(clue,), remedy="make a new executor after BrokenProcessPool",
                    )
                )  # fmt: skip
                return


def _tells_of_break(text: str) -> bool:
    return text.startswith(("<BrokenProcessPool", "<TerminatedWorkerError", "<BrokenExecutor"))
