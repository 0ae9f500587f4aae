"""Read a pool from outside: what its scoreboard and the operating system tell.

For a pool of ours whose program does not answer. The names that our threads and workers have for the
operating system tell their roles; what is only concluded is marked as ``inferred``. Nothing in here
raises for a process that ends meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

from glasspool.engines.local import account, scoreboard
from glasspool.engines.local.scoreboard import Board
from glasspool.observe import procfs, pyspy
from glasspool.observe.procfs import OsProcess, OsThread
from glasspool.snapshot import (
    Evidence,
    Frame,
    InitializerInfo,
    PoolInfo,
    ProcessInfo,
    TaskInfo,
    ThreadInfo,
    ThreadRef,
    WorkerTime,
)

# What follows "gp1 " in the system's name of a thread of the parent, and the roles that it means.
_ROLES = {
    "workers": ("worker-handler",),
    "tasks": ("task-handler",),
    "results": ("result-handler",),
    "tasks+res": ("task-handler", "result-handler"),
    "callback": ("callback",),
    "iterable": ("iterable",),
    "progress": ("progress",),
    "logs": ("logs",),
    "handlers": ("worker-handler", "task-handler", "result-handler"),
}

THREADS = "threads"
"""What stands for the start method in the file of a thread pool, which has no records of workers."""

CLUSTERS = scoreboard.ELSEWHERE
"""What stands there for a pool on a cluster, whose workers are on other machines."""

AGENT = "agent of "
"""With this begins, for the pool of a node's agent, where it was made."""

# What the command line of a process that multiprocessing started holds, and the role it means.
_STARTED_WITH = (
    ("multiprocessing.resource_tracker", "resource-tracker"),
    ("engines/local/nanny.py", "nanny"),
    ("multiprocessing.forkserver", "fork-server"),
    ("multiprocessing.spawn", "worker"),
    ("--multiprocessing-fork", "worker"),
)

# The function with which a worker, and the template, begin their own life after the fork.
_LOCAL = os.path.join("glasspool", "engines", "local")
_ENTRIES = {"worker.py": "main", "template.py": "_become_template"}


def counts(board: Board) -> tuple[int, int, int]:
    """Count the busy and the idle workers of a pool, and the tasks that they finished."""
    busy = idle = done = 0
    for record in _records(board):
        done += board.word(record, scoreboard.W_DONE)
        if board.word(record, scoreboard.W_STATE) == scoreboard.READY:
            runs = bool(board.running(record))
            busy, idle = busy + runs, idle + (not runs)
    return busy, idle, done


def kind_of(header: scoreboard.Header) -> str:
    """Return the kind of the pool that a scoreboard belongs to."""
    if header.made_at.startswith(AGENT):
        return "glasspool.Agent"
    return "glasspool.ThreadPool" if header.start_method == THREADS else "glasspool.Pool"


def has_no_records(header: scoreboard.Header) -> bool:
    """Tell whether nothing is written down of a pool's workers in this file."""
    return header.start_method in (THREADS, *CLUSTERS)


def worker_pids(board: Board) -> frozenset[int]:
    """Return the processes that the scoreboard names as workers."""
    return frozenset(board.word(record, scoreboard.W_PID) for record in _records(board))


def may_be_read(pid: int) -> bool:
    """Tell whether the operating system lets us see what the process executes."""
    return not isinstance(_executable(pid), PermissionError)


def is_leaving(pid: int) -> bool:
    """Tell whether a process has given its memory back already, though it is still listed."""
    return isinstance(_executable(pid), FileNotFoundError)


def _executable(pid: int) -> str | OSError | None:
    """Return what a process executes, or why that is not told; None where no system tells it."""
    if not procfs.HAS_PROC:
        return None
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError as error:
        return error


def is_python(pid: int) -> bool:
    """Tell whether the process runs a Python interpreter, by its file or its libraries."""
    found = procfs.process(pid)
    if found is None:
        return False
    names = [os.path.basename(found.cmdline[0])] if found.cmdline else [found.name]
    if procfs.HAS_PROC:
        try:
            names.append(os.path.basename(os.readlink(f"/proc/{pid}/exe")))
            with open(f"/proc/{pid}/maps", errors="replace") as maps:
                names.extend("python" for line in maps if "/libpython" in line)
        except OSError:
            pass  # ended or protected: the name alone decides
    return any("python" in name.lower() or "pypy" in name.lower() for name in names)


def pool_of_board(board: Board) -> PoolInfo | None:
    """Build the picture of a pool of ours; None if its process has ended."""
    header = board.header
    parent = procfs.process(header.pid)
    if parent is None:
        return None
    workers = [
        w for w in (worker_of_record(board, record) for record in _records(board)) if w is not None
    ]
    workers.sort(key=lambda worker: worker.slot or 0)
    prefix = _prefix(workers)
    known = {worker.pid for worker in workers}
    others = [_other(pid, known) for pid in _descendants(header.pid) if pid not in known]
    *_, done = counts(board)
    tasks = tuple(t.task for w in workers for t in w.threads if t.task is not None)
    return PoolInfo(
        name=header.name,
        kind=kind_of(header),
        pid=header.pid,
        processes=(
            _parent(parent, header.name, prefix),
            *(other for other in others if other is not None),
            *workers,
        ),
        tasks=tasks,
        stats={"running": len(tasks), "done": done},
        start_method=None if has_no_records(header) else header.start_method or None,
        engine=header.start_method if header.start_method in CLUSTERS else "local",
        size=header.size,
        made_at=header.made_at or None,
        initializer=header.initializer or None,
    )


def with_stacks(pool: PoolInfo) -> PoolInfo:
    """Add the stacks and Python's names of threads, as far as py-spy may read them."""
    dumps = pyspy.dump([process.pid for process in pool.processes])
    seen = {
        (pid, thread.native_id): thread for pid, dump in dumps.items() for thread in dump.threads
    }
    processes = tuple(
        replace(process, threads=tuple(_with_stack(t, seen) for t in process.threads))
        for process in pool.processes
    )
    return replace(pool, processes=processes, notes=(*pool.notes, *_refusals(dumps)))


def _refusals(dumps: dict[int, pyspy.Dump]) -> Iterator[str]:
    """Say once why stacks are missing, and of which processes if not of all."""
    pids: dict[str, list[int]] = {}
    for pid, dump in dumps.items():
        if dump.note:
            pids.setdefault(dump.note, []).append(pid)
    for note, of in pids.items():
        where = "" if len(of) == len(dumps) else f" (process {', '.join(map(str, of))})"
        yield f"no stacks: {note}{where}"


def _with_stack(thread: ThreadInfo, seen: dict[tuple[int, int], pyspy.OutsideThread]) -> ThreadInfo:
    told = seen.get((thread.pid, thread.native_id))
    if told is None:
        return thread
    roles = ("user",) if thread.roles == ("native",) else thread.roles
    return replace(
        thread,
        name=told.name or thread.name,
        ident=told.ident if thread.ident is None else thread.ident,
        roles=roles,
        python=True,
        stack=own_part(told.stack),
        evidence=Evidence("py-spy", note=thread.evidence.note),
    )


def own_part(stack: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Leave out what a forked process inherited: the frames of its parent at the fork."""
    first = 0
    for index, frame in enumerate(stack):
        if frame.function == _ENTRIES.get(os.path.basename(frame.file)) and _LOCAL in frame.file:
            first = index
    return stack[first:]


def _records(board: Board) -> Iterator[int]:
    for record in range(board.header.records):
        state = board.word(record, scoreboard.W_STATE)
        if state != scoreboard.FREE and board.word(record, scoreboard.W_PID):
            yield record


def worker_of_record(board: Board, record: int) -> ProcessInfo | None:
    """Tell of the worker that has a record of a scoreboard; None if it is gone."""
    pid = board.word(record, scoreboard.W_PID)
    found = procfs.process(pid)
    if found is None or found.state in "ZX":
        return None
    slot = board.word(record, scoreboard.W_SLOT)
    tasks = _running(board, record, pid, slot)
    threads = tuple(_worker_threads(board, record, found, tasks))
    main = next((thread for thread in threads if thread.is_main), None)
    state = board.word(record, scoreboard.W_STATE)
    return ProcessInfo(
        pid=pid,
        name=f"worker {slot}",
        role="worker",
        threads=threads,
        state=_worker_state(state, bool(tasks)),
        slot=slot,
        generation=board.word(record, scoreboard.W_GENERATION),
        started_at=found.started_at,
        tasks_done=board.word(record, scoreboard.W_DONE),
        busy_s=board.word(record, scoreboard.W_BUSY_NS) / 1e9,
        cpu_s=found.cpu_s,
        rss_bytes=found.rss_bytes,
        initializer=_initializer(board, record, main),
        evidence=Evidence("scoreboard"),
        time=worker_time(account.of_record(board, record, time.monotonic_ns())),
    )


def worker_time(parts: account.Account | None) -> WorkerTime | None:
    """Give a worker's account in seconds."""
    return None if parts is None else WorkerTime(*(part / 1e9 for part in parts))


def _worker_state(state: int, is_busy: bool) -> str:
    if state == scoreboard.READY:
        return "busy" if is_busy else "idle"
    words = scoreboard.STATE_WORDS
    return words[state] if state < len(words) else "unknown"


def _running(board: Board, record: int, pid: int, slot: int) -> dict[int, TaskInfo]:
    """Return the tasks that a worker runs, by lane."""
    return {entry.lane: _task(board, record, entry, pid, slot) for entry in board.running(record)}


def task_in(board: Board, record: int, task: int) -> TaskInfo | None:
    """Return a task that the worker with a record runs, None if it does not."""
    pid, slot = board.word(record, scoreboard.W_PID), board.word(record, scoreboard.W_SLOT)
    running = _running(board, record, pid, slot).values()
    return next((one for one in running if one.id == task), None)


def _task(board: Board, record: int, entry: scoreboard.Entry, pid: int, slot: int) -> TaskInfo:
    since_s = max(0.0, (time.monotonic_ns() - entry.begun_ns) / 1e9)
    return TaskInfo(
        id=entry.task,
        job=None,
        function=board.call_name(entry.call),
        state="running",
        slot=slot,
        pid=pid,
        begun_at=time.time() - since_s,
        run_s=since_s,
        progress=board.progress(record, entry.seq),
    )


def _initializer(board: Board, record: int, main: ThreadInfo | None) -> InitializerInfo:
    begun = board.word(record, scoreboard.W_INIT_BEGUN_NS)
    ended = board.word(record, scoreboard.W_INIT_ENDED_NS)
    if not begun:
        return InitializerInfo(board.header.initializer or None, "none")
    ran = None if main is None else ThreadRef(main.name, main.ident, main.native_id, True)
    return InitializerInfo(
        function=board.header.initializer or None,
        state="done" if ended else "running",
        thread=ran,
        begun_at=time.time() - (time.monotonic_ns() - begun) / 1e9,
        run_s=max(0.0, (ended - begun) / 1e9) if ended else None,
    )


def main_roles(initializes: bool, has_lanes: int) -> tuple[str, ...]:
    """Return what a worker's main thread is for."""
    duty = "dispatcher" if has_lanes else "task"
    return ("initializer", duty) if initializes else (duty,)


def _lanes(board: Board, record: int) -> dict[int, tuple[int, int]]:
    """Return a worker's lanes by native id: their number and ident."""
    words = board.words
    found = {}
    for lane in range(board.lanes):
        at = board.lane(record, lane)
        found[words[at + scoreboard.W_NATIVE]] = lane, words[at + scoreboard.W_IDENT]
    return found


def _worker_threads(
    board: Board, record: int, process: OsProcess, tasks: dict[int, TaskInfo]
) -> Iterator[ThreadInfo]:
    main = board.word(record, scoreboard.W_NATIVE) or process.pid
    begun = board.word(record, scoreboard.W_INIT_BEGUN_NS)
    noted = {thread.native_id: thread for thread in board.threads(record)}
    lanes, slot = _lanes(board, record), board.word(record, scoreboard.W_SLOT)
    for thread in _threads(process.pid):
        if thread.tid == main:
            yield _thread(
                thread,
                process=f"worker {slot}",
                name="MainThread",
                roles=main_roles(bool(begun), board.lanes),
                pool=board.header.name,
                ident=board.word(record, scoreboard.W_IDENT) or None,
                task=None if lanes else tasks.get(0),
                evidence=Evidence("scoreboard"),
            )
        elif thread.tid in lanes:
            lane, ident = lanes[thread.tid]
            told = _thread(
                thread,
                process=f"worker {slot}",
                name=f"{board.header.name} w{slot:02d} lane-{lane}",
                roles=("task",),
                pool=board.header.name,
                ident=ident or None,
                task=tasks.get(lane),
                evidence=Evidence("scoreboard"),
            )
            resting = told.task is None and thread.state not in "Tt"
            yield replace(told, state="idle") if resting else told
        else:
            child = noted.get(thread.tid)
            yield _thread(
                thread,
                process=f"worker {slot}",
                name=child.name if child else thread.name,
                roles=("task-child",) if child else ("native",),
                pool=board.header.name,
                ident=child.ident if child else None,
                evidence=Evidence("scoreboard") if child else _guess(),
            )


def _parent(process: OsProcess, pool: str, prefix: str | None) -> ProcessInfo:
    threads = []
    for thread in _threads(process.pid):
        ours, _, duty = thread.name.partition(" ")
        roles = _ROLES.get(duty, ()) if prefix in (None, ours) else ()
        if thread.tid == process.pid:
            name, roles = "MainThread", ("main",)
        elif roles:
            name = f"{pool} {'+'.join(roles)}"
        else:
            name, roles = thread.name, ("user",)
        threads.append(
            _thread(
                thread,
                process="parent",
                name=name,
                roles=roles,
                pool=None if roles in (("main",), ("user",)) else pool,
                evidence=_guess(),
            )
        )
    return _process(process, "parent", tuple(threads), Evidence("os"))


def _other(pid: int, workers: set[int]) -> ProcessInfo | None:
    """Tell of a template, fork server or resource tracker; None for any other process."""
    found = procfs.process(pid)
    if found is None:
        return None
    role = _role_by_command(found)
    if role in (None, "worker"):
        role = "template" if workers & set(procfs.children(pid)) else None
    return None if role is None else _plain_process(found, role)


def _plain_process(process: OsProcess, role: str) -> ProcessInfo:
    threads = tuple(
        _thread(
            thread,
            process=role,
            name="MainThread" if thread.tid == process.pid else thread.name,
            roles=_plain_roles(role, thread.tid == process.pid),
            evidence=_guess(),
        )
        for thread in _threads(process.pid)
    )
    return _process(process, role, threads, _guess())


def _plain_roles(role: str, is_main: bool) -> tuple[str, ...]:
    if role == "parent":
        return ("main",) if is_main else ("user",)
    if role == "worker":
        return ("task",) if is_main else ("native",)
    return (role,) if is_main else ("native",)


def _role_by_command(process: OsProcess) -> str | None:
    command = " ".join(process.cmdline)
    return next((role for words, role in _STARTED_WITH if words in command), None)


def _process(
    process: OsProcess, role: str, threads: tuple[ThreadInfo, ...], evidence: Evidence
) -> ProcessInfo:
    return ProcessInfo(
        pid=process.pid,
        name=role,
        role=role,
        threads=threads,
        state="",
        started_at=process.started_at,
        cpu_s=process.cpu_s,
        rss_bytes=process.rss_bytes,
        evidence=evidence,
    )


def _thread(
    thread: OsThread,
    *,
    process: str,
    name: str,
    roles: tuple[str, ...],
    evidence: Evidence,
    pool: str | None = None,
    ident: int | None = None,
    task: TaskInfo | None = None,
) -> ThreadInfo:
    return ThreadInfo(
        pid=thread.pid,
        process=process,
        name=name,
        native_id=thread.tid,
        roles=roles,
        state=f"in {task.function}"
        if task is not None and thread.state not in "Tt"
        else procfs.state_words(thread),
        ident=ident,
        is_main=thread.tid == thread.pid,
        python=roles != ("native",),
        os_name=thread.name,
        task=task,
        since_s=None if task is None else task.run_s,
        cpu_s=thread.cpu_s,
        pool=pool,
        evidence=evidence,
    )


def _threads(pid: int) -> Iterator[OsThread]:
    for tid in procfs.thread_ids(pid):
        thread = procfs.thread(pid, tid)
        if thread is not None:
            yield thread


def _descendants(pid: int) -> Iterator[int]:
    # A process may get its parent's number again while we walk: each is visited once.
    seen = {pid}
    waiting = list(procfs.children(pid))
    while waiting:
        child = waiting.pop(0)
        if child not in seen:
            seen.add(child)
            yield child
            waiting.extend(procfs.children(child))


def _prefix(workers: list[ProcessInfo]) -> str | None:
    """Return what the system's names of this pool's threads begin with, such as ``gp1``."""
    for worker in workers:
        for thread in worker.threads:
            word = (thread.os_name or "").partition(" ")[0]
            if thread.is_main and word.startswith("gp"):
                return word
    return None


def _guess() -> Evidence:
    return Evidence("inferred", note="from names and the process tree")
